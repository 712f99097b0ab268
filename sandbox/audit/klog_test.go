package audit

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestRedirectTessera(t *testing.T) {
	defer RedirectTessera(slog.New(slog.DiscardHandler)) // as the other tests have it
	var first, second bytes.Buffer
	RedirectTessera(slog.New(slog.NewTextHandler(&first, nil)))
	klog.Info("alpha")
	early := klog.Background().WithValues("file", 7) // made for the first, and used when the second is in force
	RedirectTessera(slog.New(slog.NewTextHandler(&second, nil)))
	klog.Info("beta")
	early.Info("gamma")
	for _, c := range []struct{ got, want, not string }{{first.String(), "msg=alpha component=tessera", "beta"}, {second.String(), "msg=beta component=tessera", "alpha"},
		{second.String(), "msg=gamma component=tessera file=7", "alpha"}} {
		if !strings.Contains(c.got, c.want) || strings.Contains(c.got, c.not) {
			t.Errorf("%q, want %q and not %q", c.got, c.want, c.not)
		}
	}
}
