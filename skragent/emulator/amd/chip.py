"""AMD's side: mints ARK -> ASK -> VCEK and signs attestation reports as a chip does.

AMD's "VCEK Certificate and KDS Interface Specification" for the certificates. It
vouches for nothing: whoever trusts this ARK trusts a file on this machine.

Keys are minted once and kept: two RSA-4096 keys cost a second or so, side by side
in two threads (OpenSSL lets the interpreter go meanwhile).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from skragent.emulator.amd.certificates import mint_ark, mint_ask, mint_vcek
from skragent.emulator.amd.snp_report import (
    PRODUCTS,
    Generation,
    Product,
    ReportVersion,
    SnpReport,
    Tcb,
    encode_signature,
)

if TYPE_CHECKING:
    from datetime import datetime

# What this "host compatibility layer" measures as: made up, and the same everywhere.
MEASUREMENT: Final = hashlib.sha384(b"skragent emulator: the paravisor").digest()
ID_KEY_DIGEST: Final = hashlib.sha384(b"skragent emulator: the id key").digest()

_REPORT_DEFAULTS: Final[dict[ReportVersion, int]] = {2: 5, 3: 10, 5: 12}  # guest_svn


@dataclass(frozen=True, slots=True)
class AmdRoot:
    """AMD's two certification keys for one product."""

    product: Product
    ark_der: bytes
    ask_der: bytes
    ask_key: rsa.RSAPrivateKey

    @classmethod
    async def mint(cls, generation: Generation, now: datetime) -> Self:
        """Make both keys and certificates."""
        product = PRODUCTS[generation]
        ark_key, ask_key = await asyncio.gather(
            asyncio.to_thread(rsa.generate_private_key, 65537, 4096),
            asyncio.to_thread(rsa.generate_private_key, 65537, 4096),
        )
        ark = mint_ark(product.name, ark_key, now)
        ask = mint_ask(product.name, ask_key.public_key(), ark, ark_key, now)
        der = serialization.Encoding.DER
        return cls(product, ark.public_bytes(der), ask.public_bytes(der), ask_key)


class Chip:
    """One chip: its secret, its firmware versions, and the chain that vouches for it.

    `current`, `reported`, `committed` and `launch_tcb` may be set otherwise by a test:
    the certificate is minted for the reported one at minting time.
    """

    def __init__(
        self,
        root: AmdRoot,
        chip_id: bytes,
        key: ec.EllipticCurvePrivateKey,
        vcek: bytes,
    ) -> None:
        self.root = root
        self.chip_id = chip_id
        self.vcek_der = vcek
        self._key = key
        self.tcb: Tcb = root.product.tcb
        self.report_version: ReportVersion = 3
        self.report_id = secrets.token_bytes(32)

    @classmethod
    async def mint(
        cls,
        generation: Generation = "milan",
        *,
        now: datetime,
        root: AmdRoot | None = None,
    ) -> Self:
        """Make a chip, under a root of its own or under another chip's."""
        root = root or await AmdRoot.mint(generation, now)
        product = root.product
        hardware_id = secrets.token_bytes(product.chip_id_bytes)
        key = ec.generate_private_key(ec.SECP384R1())
        vcek = mint_vcek(
            product, hardware_id, key.public_key(), root.ask_der, root.ask_key, now=now
        )
        return cls(root, hardware_id.ljust(64, b"\0"), key, vcek)

    def update_firmware(self, now: datetime) -> Self:
        """Give this chip with newer microcode: another TCB, so another VCEK, too."""
        tcb = replace(self.tcb, microcode=self.tcb.microcode + 1)
        product = replace(self.root.product, tcb=tcb)
        root = replace(self.root, product=product)
        hardware_id = self.chip_id[: product.chip_id_bytes]
        key = ec.generate_private_key(ec.SECP384R1())
        vcek = mint_vcek(
            product, hardware_id, key.public_key(), root.ask_der, root.ask_key, now=now
        )
        updated = type(self)(root, self.chip_id, key, vcek)
        updated.report_version = self.report_version
        updated.report_id = self.report_id
        return updated

    @classmethod
    async def load_or_mint(
        cls, directory: Path, generation: Generation, *, now: datetime
    ) -> Self:
        """Take the chip that lies in a directory; make and keep one if none does."""
        chip = cls.load(directory, generation)
        if chip is None:
            chip = await cls.mint(generation, now=now)
            chip.save(directory)
        return chip

    @classmethod
    def load(cls, directory: Path, generation: Generation) -> Self | None:
        """Read what `save` wrote, if it ever did."""
        if not directory.exists():
            return None
        read = {name: (directory / name).read_bytes() for name in _FILES}
        # To validate an RSA-4096 key that we wrote ourselves takes a third of a second.
        ask_key = serialization.load_pem_private_key(
            read["ask-key.pem"], None, unsafe_skip_rsa_key_validation=True
        )
        key = serialization.load_pem_private_key(read["vcek-key.pem"], None)
        if not isinstance(ask_key, rsa.RSAPrivateKey) or not isinstance(
            key, ec.EllipticCurvePrivateKey
        ):
            raise TypeError(f"{directory}: these are not a chip's keys")
        root = AmdRoot(PRODUCTS[generation], read["ark.der"], read["ask.der"], ask_key)
        return cls(root, read["chip-id.bin"], key, read["vcek.der"])

    def save(self, directory: Path) -> None:
        """Keep the chip, whole or not at all, for its owner's eyes only."""
        contents = {
            "ark.der": self.root.ark_der,
            "ask.der": self.root.ask_der,
            "ask-key.pem": _private_pem(self.root.ask_key),
            "vcek.der": self.vcek_der,
            "vcek-key.pem": _private_pem(self._key),
            "chip-id.bin": self.chip_id,
        }
        # mkdtemp makes it 0700.
        with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
            made = Path(temporary, "chip")
            made.mkdir(mode=0o700)
            for name, content in contents.items():
                descriptor = os.open(made / name, os.O_WRONLY | os.O_CREAT, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
            made.rename(directory)

    @property
    def ark_pem(self) -> str:
        """The root to trust."""
        return ssl.DER_cert_to_PEM_cert(self.root.ark_der)

    @property
    def vcek_pem(self) -> str:
        """The chip's certificate."""
        return ssl.DER_cert_to_PEM_cert(self.vcek_der)

    @property
    def chain_pem(self) -> str:
        """ASK, then ARK, as AMD's KDS and Azure's THIM give them."""
        return ssl.DER_cert_to_PEM_cert(self.root.ask_der) + self.ark_pem

    def thim_answer(self) -> dict[str, str]:
        """Give what IMDS's `/metadata/THIM/amd/certification` has for this chip.

        `tcbm` is the reported TCB as one hex number, most significant byte first.
        """
        return {
            "vcekCert": self.vcek_pem,
            "tcbm": self.tcb.encode()[::-1].hex().upper(),
            "certificateChain": self.chain_pem,
            "cacheControl": "86400",
        }

    def describe(self, report_data: bytes) -> SnpReport:
        """Fill a report's fields in for this chip and VM."""
        return SnpReport(
            report_data=report_data,
            measurement=MEASUREMENT,
            id_key_digest=ID_KEY_DIGEST,
            report_id=self.report_id,
            chip_id=self.chip_id,
            current_tcb=self.tcb,
            reported_tcb=self.tcb,
            committed_tcb=self.tcb,
            launch_tcb=self.tcb,
            version=self.report_version,
            guest_svn=_REPORT_DEFAULTS[self.report_version],
            cpuid=self.root.product.cpuid,
        )

    def sign(self, report: SnpReport) -> bytes:
        """Sign a report with the VCEK."""
        signed = report.encode()
        signature = self._key.sign(signed, ec.ECDSA(hashes.SHA384()))
        return signed + encode_signature(*decode_dss_signature(signature))

    def attest(self, report_data: bytes, **changes: object) -> bytes:
        """Give the signed report for 64 bytes; `changes` are fields of `SnpReport`."""
        return self.sign(replace(self.describe(report_data), **changes))  # type: ignore[arg-type]


_FILES: Final = (
    "ark.der", "ask.der", "ask-key.pem", "vcek.der", "vcek-key.pem", "chip-id.bin",
)  # fmt: skip


def _private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
