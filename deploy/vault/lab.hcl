# What labd's AppRole may do: sign as the lab, the node and the log, keep data keys of its blob store, read how to reach its
# database. It cannot take a signing key out or replace it, and has no piece of any keyset. @transit@ and @kv@ are replaced
# by setup.sh.

# To see that there is an audit device, and no more of it: without one labd refuses to use keys.
path "sys/audit" { capabilities = ["read", "sudo"] }

# Data keys of the blob store: made, used and destroyed, never exportable.
path "@transit@/keys/+" {
  capabilities       = ["create", "update", "read", "delete"]
  allowed_parameters = { "type" = ["aes256-gcm96"], "derived" = [true] }
}
path "@transit@/keys/+/config" {
  capabilities       = ["create", "update"]
  allowed_parameters = { "deletion_allowed" = [true] }
}
path "@transit@/decrypt/+"           { capabilities = ["create", "update"] }
path "@transit@/datakey/plaintext/+" { capabilities = ["create", "update"] }

# The signing keys are made by whoever sets the Vault up. labd signs with them: grants, receipts, checkpoints.
path "@transit@/keys/lab"         { capabilities = ["read"] }
path "@transit@/keys/node"        { capabilities = ["read"] }
path "@transit@/keys/log"         { capabilities = ["read"] }
path "@transit@/keys/lab/config"  { capabilities = ["deny"] }
path "@transit@/keys/node/config" { capabilities = ["deny"] }
path "@transit@/keys/log/config"  { capabilities = ["deny"] }
path "@transit@/sign/lab"         { capabilities = ["update"] }
path "@transit@/sign/node"        { capabilities = ["update"] }
path "@transit@/sign/log"         { capabilities = ["update"] }

# How to reach the database.
path "@kv@/data/labd" { capabilities = ["read"] }
