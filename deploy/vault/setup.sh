#!/usr/bin/env bash
# Sets up one party's Vault (or OpenBao): audit device, engines, policy, AppRole, signing keys. To be run by the body's
# own Vault operator; it may be run again and changes nothing that is there, but writes a new secret-id.
#
#   VAULT_ADDR=https://vault.body:8200 VAULT_TOKEN=… setup.sh KIND NAME OUT
#
# KIND is custodian (key pieces), lab (labd: its signing keys, data keys of the blob store, the database's password) or
# agency (a steward's dataset keys and project keys); each has its policy beside this file. OUT receives role-id and
# secret-id, readable by the owner only, for the party's configuration. Optional: VAULT_CACERT, VAULT_NAMESPACE; TRANSIT
# and KV (mounts; default transit and kv); AUDIT_FILE (default /var/log/vault/audit.log; made only where there is no audit
# device at all); TOKEN_TTL (default 10m); SECRET_ID_TTL (default 2160h: renew the secret-id within 90 days by running this
# again).
#
# Give every party its own Vault. Where several share one, for development, give each its own mounts.
set -euo pipefail

[ $# = 3 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
kind=$1 name=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
transit=${TRANSIT:-transit} kv=${KV:-kv}
role=$kind-$name
: "${VAULT_ADDR:?}" "${VAULT_TOKEN:?}"
[[ $name =~ ^[a-z0-9-]+$ && $transit =~ ^[a-z0-9-]+$ && $kv =~ ^[a-z0-9-]+$ && $kind =~ ^(custodian|lab|agency)$ ]] || {
  echo "setup.sh: want custodian, lab or agency, then names of lower-case letters, digits and hyphens" >&2
  exit 2
}
case $kind in
custodian) signing=(sign) ;;
lab) signing=(lab node log) ;;
agency) signing=() ;;
esac

# call METHOD PATH [JSON] prints the answer. The token goes in by a file descriptor: arguments are for all to see.
call() {
  local extra=()
  [ -z "${VAULT_CACERT:-}" ] || extra+=(--cacert "$VAULT_CACERT")
  [ -z "${VAULT_NAMESPACE:-}" ] || extra+=(-H "X-Vault-Namespace: $VAULT_NAMESPACE")
  [ $# -lt 3 ] || extra+=(--data "$3")
  curl --silent --show-error --fail-with-body "${extra[@]}" -H @<(printf 'X-Vault-Token: %s' "$VAULT_TOKEN") -X "$1" "$VAULT_ADDR/v1/$2"
}

has() { call GET "$1" >/dev/null 2>&1; }

# value NAME takes a plain string out of an answer.
value() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

call GET sys/audit | grep -q '"type":' ||
  call POST sys/audit/file "{\"type\":\"file\",\"options\":{\"file_path\":\"${AUDIT_FILE:-/var/log/vault/audit.log}\"}}"
has "sys/mounts/$transit/tune" || call POST "sys/mounts/$transit" '{"type":"transit"}'
has "sys/mounts/$kv/tune" || call POST "sys/mounts/$kv" '{"type":"kv","options":{"version":"2"}}'
# One version of everything: what was replaced must not lie about. Vault upgrades a new mount in the background.
for ((i = 0; ; i++)); do
  call POST "$kv/config" '{"max_versions":1}' >/dev/null 2>&1 && break
  [ $i -lt 100 ] || { call POST "$kv/config" '{"max_versions":1}'; exit 1; }
  sleep 0.1
done
# The first reading makes the RSA key that imports are wrapped with, which takes seconds.
[ "$kind" != custodian ] || call GET "$transit/wrapping_key" >/dev/null
for key in "${signing[@]}"; do
  has "$transit/keys/$key" || call POST "$transit/keys/$key" '{"type":"ed25519"}' >/dev/null
done

policy=$(sed -e "s/@transit@/$transit/g; s/@kv@/$kv/g" "$here/$kind.hcl" | base64 -w0)
call PUT "sys/policies/acl/$role" "{\"policy\":\"$policy\"}"
has sys/mounts/auth/approle/tune || call POST sys/auth/approle '{"type":"approle"}'
call POST "auth/approle/role/$role" \
  "{\"token_policies\":\"$role\",\"token_no_default_policy\":true,\"token_ttl\":\"${TOKEN_TTL:-10m}\",\"token_type\":\"service\",\"secret_id_ttl\":\"${SECRET_ID_TTL:-2160h}\"}"

umask 077
mkdir -p "$out"
call GET "auth/approle/role/$role/role-id" | value role_id >"$out/role-id"
call POST "auth/approle/role/$role/secret-id" '{}' | value secret_id >"$out/secret-id"
[ -s "$out/role-id" ] && [ -s "$out/secret-id" ] || { echo "setup.sh: no credentials in the answers" >&2; exit 1; }
echo "setup.sh: $name logs in with $out/role-id and $out/secret-id"
for key in "${signing[@]}"; do
  echo "setup.sh: public key of $transit/keys/$key: $(call GET "$transit/keys/$key" | value public_key)"
done
