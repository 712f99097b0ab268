# What the control plane's AppRole may do: keep data keys of its blob store. It has no piece of any keyset.
path "sys/audit" { capabilities = ["read", "sudo"] }

path "@transit@/keys/+" {
  capabilities       = ["create", "update", "read", "delete"]
  allowed_parameters = { "type" = ["aes256-gcm96"], "derived" = [true] }
}
path "@transit@/keys/+/config" {
  capabilities       = ["create", "update"]
  allowed_parameters = { "deletion_allowed" = [true] }
}
path "@transit@/keys/sign"        { capabilities = ["deny"] }
path "@transit@/keys/sign/config" { capabilities = ["deny"] }
path "@transit@/decrypt/+"           { capabilities = ["create", "update"] }
path "@transit@/datakey/plaintext/+" { capabilities = ["create", "update"] }
