# What an agency's AppRole may do: keep the keys of its own datasets and projects, and destroy them. Each lies wrapped in kv
# under a transit key of its own, which never leaves Vault. @transit@ and @kv@ are replaced by setup.sh.

# To see that there is an audit device, and no more of it: without one keys are not used.
path "sys/audit" { capabilities = ["read", "sudo"] }

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

path "@kv@/data/own/*"     { capabilities = ["create", "update", "read"] }
path "@kv@/metadata/own/*" { capabilities = ["list", "read", "delete"] }
