"""Release: get a key from Key Vault or Managed HSM, verify it and unwrap it.

`vault` sends the requests, with tokens of `access_tokens` and credentials of
`credentials`. `envelope` verifies the signed response, `keywrap` unwraps the key, and
`formats` renders it. `vault_failures` and `vault_refusals` map errors.
docs/protocols/key-release.md and identity.md have the facts and their sources.
"""
