# What a custodian's AppRole may do: use its own keys where they lie. It cannot export, back up or decrypt in bulk, read
# another mount, or change who may do what. @transit@ and @kv@ are replaced by setup.sh.

# To see that there is an audit device, and no more of it: without one the custodian refuses to use keys.
path "sys/audit" { capabilities = ["read", "sudo"] }

# The signing key is made by whoever sets the Vault up. The custodian signs with it; it cannot replace or delete it.
path "@transit@/keys/sign"        { capabilities = ["read"] }
path "@transit@/keys/sign/config" { capabilities = ["deny"] }
path "@transit@/keys/sign/rotate" { capabilities = ["deny"] }
path "@transit@/keys/sign/trim"   { capabilities = ["deny"] }
path "@transit@/keys/sign/import" { capabilities = ["deny"] }
path "@transit@/sign/sign"        { capabilities = ["update"] }

# Wrapping keys: made on import, never exportable, rotated, and deleted when a keyset is destroyed.
path "@transit@/keys/+" {
  capabilities       = ["create", "update", "read", "delete"]
  allowed_parameters = { "type" = ["aes256-gcm96"], "derived" = [true] }
}
path "@transit@/keys/+/config" {
  capabilities       = ["create", "update"]
  allowed_parameters = { "deletion_allowed" = [true], "min_decryption_version" = [], "min_encryption_version" = [] }
}
path "@transit@/keys/+/rotate" { capabilities = ["create", "update"] }
path "@transit@/keys/+/trim"   { capabilities = ["create", "update"] }
path "@transit@/rewrap/+"      { capabilities = ["create", "update"] }
path "@transit@/decrypt/+"     { capabilities = ["create", "update"] }
path "@transit@/datakey/plaintext/+" { capabilities = ["create", "update"] }

# PRF keys: imported as HMAC keys and used, never read.
path "@transit@/wrapping_key" { capabilities = ["read"] }
path "@transit@/keys/+/import" {
  capabilities       = ["create", "update"]
  allowed_parameters = { "ciphertext" = [], "hash_function" = [], "type" = ["hmac"] }
}
path "@transit@/hmac/+/sha2-256" { capabilities = ["create", "update"] }

# What the keys wrap.
path "@kv@/data/pieces/*"      { capabilities = ["create", "update", "read"] }
path "@kv@/metadata/pieces/*"  { capabilities = ["list", "read", "delete"] }
path "@kv@/data/secrets/*"     { capabilities = ["create", "update", "read"] }
path "@kv@/metadata/secrets/*" { capabilities = ["list", "read", "delete"] }
