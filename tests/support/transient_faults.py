"""Faults of the emulator in which no authority denies a key: none may drop a held key.

The keys of the table are the error codes that the agent logs. A tuple of faults is
injected together. VAULT stands for the vault's URL.
"""

from __future__ import annotations

TRANSIENT_FAULTS: dict[str, tuple[tuple[str, ...], ...]] = {
    # The provider's key set is outdated, or its tokens do not verify.
    "token.signature": (
        ("maa.rotate", "maa.jwks=stale"),
        ("maa.signature",),
        ("maa.key=unknown",),
        ("maa.key=forged",),
        ("maa.tamper.jti=1",),
    ),
    "token.invalid": (
        ("maa.unsigned",),
        ('maa.header.alg="PS256"',),
        ("maa.token.iat=null",),
    ),
    "token.issuer": (('maa.token.iss="https://other.example"',),),
    "token.nonce": (("maa.token.x-ms-runtime={}",),),
    "token.lifetime": (("maa.token.exp=1000000",),),
    "token.sealed": (
        ("maa.sealed=Jwt",),
        ("maa.sealed=EncryptedInnerKey",),
        ("vm.rc=0x101,command=0x159,times=2",),
    ),
    "token.signing_keys": (("maa.jwks=empty",),),
    # A proxy answers in place of the provider or the vault.
    "transport.unexpected": (
        *((f"maa.status={s}", "maa.body") for s in (400, 401, 403, 404, 418, 421)),
        *((f"vault.status={s}", "vault.body") for s in (400, 403, 404, 405, 413, 425)),
        ("vault.status=403", 'vault.body={"error": "blocked"}'),
        ("maa.status=403,code=Forbidden,message=no",),
        ("maa.status=404,path=/certs",),
        ("vault.bomb",),
        ("maa.status=302", "maa.flood"),
    ),
    "transport.oversized": (("vault.flood",), ("maa.oversize",)),
    # IMDS is not an authority.
    "identity.not_found": (
        ("imds.identity.removed",),
        ("imds.status=400,path=/metadata/identity,code=invalid_request,message=x",),
    ),
    "identity.refused": (("vault.unauthorized",), ("imds.access_token",)),
    # Unusual responses of the TPM.
    "evidence.tpm": (
        *((f"vm.rc={rc},times=99",) for rc in ("0x100", "0x101", "0x149")),
        *(("vm.rc=0x101,times=1",), ("vm.rc=0x18b,times=99",)),
    ),
    "evidence.not_a_cvm": (("vm.rc=0x18b,command=0x169,times=99",),),
    "evidence.tpm.busy": (("vm.rc=0x14a,times=99",),),
    "evidence.malformed": (("vm.report=magic",), ("vm.report=runtime_data",)),
    "evidence.signature": (("vm.report=signature",), ("vm.report=measurement",)),
    # A release response that does not verify or is malformed.
    "release.malformed": (
        ('vault.release.payload.response.key.key.kid="VAULT/keys/demo/a€b"',),
        ("vault.body=" + "[" * 1000,),
    ),
    "release.signature": (("vault.release.signature",),),
    "release.mismatch": (('vault.release.payload.request.nonce="x"',),),
}
