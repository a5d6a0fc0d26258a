"""A client process: loads three keys and a session, waits, uses them all, leaves them.

Says `loaded`, then for each line on its standard input `used`; never flushes anything.
"""

from __future__ import annotations

import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_RH, TPM2_SE, TPM2_ST
from tpm2_pytss.types import (
    TPM2B_DIGEST,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_HASHCHECK,
)


def main(tcti: str) -> None:
    """Be the client."""
    with ESAPI(tcti) as tpm:
        template = TPM2B_PUBLIC.parse(
            "ecc256:ecdsa-sha256",
            objectAttributes="fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign",
        )
        keys = []
        for number in range(3):
            template.publicArea.unique.ecc.x = bytes([number + 1]) * 32
            handle, public, *_ = tpm.create_primary(
                TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.NULL
            )
            keys.append((handle, public))
        session = tpm.start_auth_session(
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            TPM2_SE.HMAC,
            TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            TPM2_ALG.SHA256,
        )
        say("loaded")
        for line in sys.stdin:
            for handle, public in keys:
                sign(tpm, handle, public, session, line.encode().ljust(32)[:32])
            say("used")


def say(word: str) -> None:
    """Report to the test."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def sign(
    tpm: ESAPI, handle: ESYS_TR, public: TPM2B_PUBLIC, session: ESYS_TR, digest: bytes
) -> None:
    """Sign with a key; that the right key signed shows in the signature."""
    ticket = TPMT_TK_HASHCHECK(tag=TPM2_ST.HASHCHECK, hierarchy=TPM2_RH.NULL)
    signature = tpm.sign(
        handle,
        TPM2B_DIGEST(digest),
        TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
        ticket,
        session1=session,
    )
    point = public.publicArea.unique.ecc
    key = ec.EllipticCurvePublicNumbers(
        int.from_bytes(bytes(point.x)), int.from_bytes(bytes(point.y)), ec.SECP256R1()
    ).public_key()
    prehashed = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    key.verify(bytes(signature), digest, prehashed)


if __name__ == "__main__":
    main(sys.argv[1])
