package enclave_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"yingzhou.dev/lab/enclave"
	"yingzhou.dev/lab/internal/canon"
)

func keysetOf(t *testing.T, name string) enclave.Keyset {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var ks enclave.Keyset
	if err := canon.Unmarshal(data, &ks); err != nil {
		t.Fatal(err)
	}
	return ks
}

func unsigned(ks enclave.Keyset) enclave.Signed {
	return enclave.Signed{Kind: enclave.KindKeyset, Body: canon.MustMarshal(ks), Sigs: []canon.Signature{}}
}

func TestLineage(t *testing.T) {
	first, second := keysetOf(t, "keyset"), keysetOf(t, "refresh")
	origin := canon.DigestOf(first)
	third := second
	third.Epoch, third.Previous = 3, canon.DigestOf(second)
	other := first
	other.Dataset = "health"
	all := []enclave.Signed{unsigned(third), unsigned(other), unsigned(second), unsigned(first), unsigned(second)}
	for epoch, want := range map[int64]enclave.Keyset{0: third, 1: first, 2: second, 3: third} {
		ks, sum, err := enclave.Lineage(origin, all, epoch)
		if err != nil || ks.Epoch != want.Epoch || sum != canon.DigestOf(want) {
			t.Errorf("epoch %d is %v, %s, %v", epoch, ks, sum.Short(), err)
		}
	}
	for _, missing := range []struct {
		origin enclave.Digest
		epoch  int64
	}{{origin, 4}, {canon.Sum([]byte("other")), 0}} {
		if _, _, err := enclave.Lineage(missing.origin, all, missing.epoch); !errors.Is(err, enclave.ErrNotFound) {
			t.Errorf("epoch %d of %s: %v", missing.epoch, missing.origin.Short(), err)
		}
	}
	// Whoever claims to follow and may not is passed over.
	for what, change := range map[string]func(*enclave.Keyset){
		"owner":     func(k *enclave.Keyset) { k.Owner = "税务局" },
		"rows":      func(k *enclave.Keyset) { k.EntityRows = 9 },
		"quorum":    func(k *enclave.Keyset) { k.Quorum = 3 },
		"epoch":     func(k *enclave.Keyset) { k.Epoch = 5 },
		"params":    func(k *enclave.Keyset) { k.Params = "bgv14-t58" },
		"dataset":   func(k *enclave.Keyset) { k.Dataset = "health" },
		"custodian": func(k *enclave.Keyset) { k.Custodians = k.Custodians[:2] },
	} {
		bad := third
		change(&bad)
		ks, _, err := enclave.Lineage(origin, []enclave.Signed{unsigned(first), unsigned(second), unsigned(bad)}, 0)
		if err != nil || ks.Epoch != 2 {
			t.Errorf("%s: %v, %v", what, ks, err)
		}
	}
	fork := second
	fork.BudgetMicro++
	if _, _, err := enclave.Lineage(origin, append(all, unsigned(fork)), 0); err == nil || !strings.Contains(err.Error(), "both replace") {
		t.Errorf("a fork gives %v", err)
	}
}

func TestRefreshNamesWhatItReplaces(t *testing.T) {
	first, second := keysetOf(t, "keyset"), keysetOf(t, "refresh")
	for what, ks := range map[string]func() enclave.Keyset{
		"an origin in epoch 1":      func() enclave.Keyset { k := first; k.Origin = second.Origin; return k },
		"a predecessor in epoch 1":  func() enclave.Keyset { k := first; k.Previous = second.Origin; return k },
		"no origin in epoch 2":      func() enclave.Keyset { k := second; k.Origin = enclave.Digest{}; return k },
		"no predecessor in epoch 2": func() enclave.Keyset { k := second; k.Previous = enclave.Digest{}; return k },
	} {
		k := ks()
		if k.Validate() == nil {
			t.Errorf("%s is valid", what)
		}
	}
}
