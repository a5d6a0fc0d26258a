"""An AMD chip: mint ARK, ASK and VCEK, and sign attestation reports.

The certificates follow AMD's "VCEK Certificate and KDS Interface Specification". They
prove nothing about hardware: the emulator's ARK is a file on this machine.

Keys are created once and kept. Two RSA-4096 keys take about a second in two threads;
OpenSSL releases the interpreter lock while it generates a key.
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

# Invented measurements of the host compatibility layer, the same in every emulator.
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
        """Create both keys and certificates."""
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
    """A chip: its secret, its firmware versions and its certificate chain.

    Tests may change `tcb` and `report_version`. The VCEK certificate names the TCB at
    the time of minting.
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
        """Create a chip, under a new root or under another chip's root."""
        root = root or await AmdRoot.mint(generation, now)
        product = root.product
        hardware_id = secrets.token_bytes(product.chip_id_bytes)
        key = ec.generate_private_key(ec.SECP384R1())
        vcek = mint_vcek(
            product, hardware_id, key.public_key(), root.ask_der, root.ask_key, now=now
        )
        return cls(root, hardware_id.ljust(64, b"\0"), key, vcek)

    def update_firmware(self, now: datetime) -> Self:
        """Return this chip with newer microcode, and so with another TCB and VCEK."""
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
        """Load the chip from a directory; create and save it if it is missing."""
        chip = cls.load(directory, generation)
        if chip is None:
            chip = await cls.mint(generation, now=now)
            chip.save(directory)
        return chip

    @classmethod
    def load(cls, directory: Path, generation: Generation) -> Self | None:
        """Load a chip that `save` wrote; None if the directory is missing."""
        if not directory.exists():
            return None
        read = {name: (directory / name).read_bytes() for name in _FILES}
        # Validating our own RSA-4096 key takes a third of a second.
        ask_key = serialization.load_pem_private_key(
            read["ask-key.pem"], None, unsafe_skip_rsa_key_validation=True
        )
        key = serialization.load_pem_private_key(read["vcek-key.pem"], None)
        if not isinstance(ask_key, rsa.RSAPrivateKey) or not isinstance(
            key, ec.EllipticCurvePrivateKey
        ):
            raise TypeError(f"{directory}: the key files do not hold a chip's keys")
        root = AmdRoot(PRODUCTS[generation], read["ark.der"], read["ask.der"], ask_key)
        return cls(root, read["chip-id.bin"], key, read["vcek.der"])

    def save(self, directory: Path) -> None:
        """Save the chip atomically, readable only by its owner."""
        contents = {
            "ark.der": self.root.ark_der,
            "ask.der": self.root.ask_der,
            "ask-key.pem": _private_pem(self.root.ask_key),
            "vcek.der": self.vcek_der,
            "vcek-key.pem": _private_pem(self._key),
            "chip-id.bin": self.chip_id,
        }
        # mkdtemp creates the directory with mode 0700.
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
        """The root certificate, which verifiers must trust."""
        return ssl.DER_cert_to_PEM_cert(self.root.ark_der)

    @property
    def vcek_pem(self) -> str:
        """The VCEK certificate."""
        return ssl.DER_cert_to_PEM_cert(self.vcek_der)

    @property
    def chain_pem(self) -> str:
        """ASK, then ARK, in the order of AMD's KDS and Azure's THIM."""
        return ssl.DER_cert_to_PEM_cert(self.root.ask_der) + self.ark_pem

    def thim_certification(self) -> dict[str, str]:
        """Return the members of IMDS's `/metadata/THIM/amd/certification`.

        `tcbm` is the reported TCB as one hex number, most significant byte first.
        """
        return {
            "vcekCert": self.vcek_pem,
            "tcbm": self.tcb.encode()[::-1].hex().upper(),
            "certificateChain": self.chain_pem,
            "cacheControl": "86400",
        }

    def describe(self, report_data: bytes) -> SnpReport:
        """Return the report fields of this chip and VM."""
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
        """Return a signed report; `changes` replaces fields of `SnpReport`."""
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
