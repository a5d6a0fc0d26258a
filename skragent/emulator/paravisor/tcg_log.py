"""The measured boot of the VM: the firmware's events, their log and their digests.

TCG "PC Client Platform Firmware Profile", crypto-agile log: a TCG_PCR_EVENT with the
Spec ID event, then TCG_PCR_EVENT2 entries with SHA-1 and SHA-256 digests. All content
is invented and equal at every boot; so are the PCRs.

`provisioning.py` extends the PCRs; a verifier judges the log.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
import uuid
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from skragent.emulator.tpm.messages import ALG_SHA1, ALG_SHA256

_EV_NO_ACTION: Final = 0x03
_EV_SEPARATOR: Final = 0x04
_EV_S_CRTM_VERSION: Final = 0x08
_EV_IPL: Final = 0x0D
_EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
_EV_EFI_VARIABLE_BOOT: Final = 0x80000002
_EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
_EV_EFI_ACTION: Final = 0x80000007
_EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0

# UEFI specification, section 32: the GUIDs of variables and signature types.
_GLOBAL: Final = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_IMAGE_SECURITY: Final = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_CERT_X509: Final = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_CERT_SHA256: Final = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_OWNER: Final = uuid.UUID("e0f6b1f4-0d4c-4d8e-9c0e-5b8a6f1d2c3a")  # invented

_FIRMWARE_PCRS: Final = range(8)


@dataclass(frozen=True, slots=True)
class Event:
    """A measurement: the digests are of `measured`; the log contains `data`."""

    pcr: int
    kind: int
    data: bytes
    measured: bytes

    @property
    def digests(self) -> tuple[tuple[int, bytes], ...]:
        """The digest for each bank."""
        return (
            (ALG_SHA1, hashlib.sha1(self.measured, usedforsecurity=False).digest()),
            (ALG_SHA256, hashlib.sha256(self.measured).digest()),
        )

    def encode(self) -> bytes:
        """Return the TCG_PCR_EVENT2."""
        head = struct.pack("<III", self.pcr, self.kind, len(self.digests))
        for algorithm, digest in self.digests:
            head += struct.pack("<H", algorithm) + digest
        return head + struct.pack("<I", len(self.data)) + self.data


def boot_events(*, secure_boot: bool) -> list[Event]:
    """Return the measurements of firmware, shim and boot loader, in order."""
    version = "Hyper-V UEFI Release v4.1 (skragent emulator)\0".encode("utf-16-le")
    db = _certificates("db")
    variables = (
        ("SecureBoot", _GLOBAL, bytes([secure_boot])),
        ("PK", _GLOBAL, _certificates("PK")),
        ("KEK", _GLOBAL, _certificates("KEK")),
        ("db", _IMAGE_SECURITY, db),
        ("dbx", _IMAGE_SECURITY, _hashes("revoked boot loader")),
    )
    call = b"Calling EFI Application from Boot Option"
    signature = db[28:]  # the EFI_SIGNATURE_DATA after the list's header
    events = [
        _plain(0, _EV_S_CRTM_VERSION, version),
        *(
            _plain(7, _EV_EFI_VARIABLE_DRIVER_CONFIG, _variable(*one))
            for one in variables
        ),
        _plain(1, _EV_EFI_VARIABLE_BOOT, _variable("BootOrder", _GLOBAL, b"\0\0")),
        _plain(4, _EV_EFI_ACTION, call),
        *(_plain(pcr, _EV_SEPARATOR, bytes(4)) for pcr in _FIRMWARE_PCRS),
    ]
    if secure_boot:
        authority = _variable("db", _IMAGE_SECURITY, signature)
        events.append(_plain(7, _EV_EFI_VARIABLE_AUTHORITY, authority))
    return [
        *events,
        _application("\\EFI\\ubuntu\\shimx64.efi", 0x7D000000),
        _application("\\EFI\\ubuntu\\grubx64.efi", 0x7C000000),
        _plain(14, _EV_IPL, b"MokList\0"),
        _grub_command(b"linux /vmlinuz root=/dev/sda1 ro"),
        _plain(9, _EV_IPL, b"/vmlinuz\0"),
        _plain(5, _EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        _plain(5, _EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]


def encode_log(events: list[Event]) -> bytes:
    """Return the whole log."""
    algorithms = ((ALG_SHA1, 20), (ALG_SHA256, 32))
    # TCG_EfiSpecIdEvent: platform class 0 (client), version 2.0, errata 0, UINT64s.
    spec_id = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    spec_id += struct.pack("<I", len(algorithms))
    spec_id += b"".join(struct.pack("<HH", *one) for one in algorithms) + b"\0"
    first = struct.pack("<II20sI", 0, _EV_NO_ACTION, bytes(20), len(spec_id))
    return first + spec_id + b"".join(event.encode() for event in events)


def _plain(pcr: int, kind: int, data: bytes) -> Event:
    """Return an event whose digests are of the logged data."""
    return Event(pcr, kind, data, data)


def _grub_command(line: bytes) -> Event:
    """Return a GRUB event: GRUB logs a prefix and a NUL that it does not measure."""
    return Event(8, _EV_IPL, b"grub_cmd: " + line + b"\0", line)


def _variable(name: str, vendor: uuid.UUID, data: bytes) -> bytes:
    """Return a UEFI_VARIABLE_DATA."""
    head = vendor.bytes_le + struct.pack("<QQ", len(name), len(data))
    return head + name.encode("utf-16-le") + data


def _application(path: str, address: int) -> Event:
    """Return a loaded image: logs a UEFI_IMAGE_LOAD_EVENT and measures the image."""
    name = (path + "\0").encode("utf-16-le")
    # Media device path, file path; then the end of the path.
    device = struct.pack("<BBH", 4, 4, 4 + len(name)) + name + b"\x7f\xff\x04\0"
    data = struct.pack("<QQQQ", address, 0x100000, 0, len(device)) + device
    image = f"the Authenticode hash of {path}".encode()
    return Event(4, _EV_EFI_BOOT_SERVICES_APPLICATION, data, image)


def _hashes(*contents: str) -> bytes:
    """Return an EFI_SIGNATURE_LIST of SHA-256 hashes."""
    data = [
        _OWNER.bytes_le + hashlib.sha256(content.encode()).digest()
        for content in contents
    ]
    return _signature_list(_CERT_SHA256, b"".join(data), len(data[0]))


def _certificates(name: str) -> bytes:
    """Return an EFI_SIGNATURE_LIST with one certificate."""
    data = _OWNER.bytes_le + _certificate(f"skragent emulator {name}")
    return _signature_list(_CERT_X509, data, len(data))


def _signature_list(kind: uuid.UUID, data: bytes, size: int) -> bytes:
    return kind.bytes_le + struct.pack("<III", 28 + len(data), 0, size) + data


def _certificate(common_name: str) -> bytes:
    """Make a certificate that is always the same; its key signs nothing else."""
    seed = hashlib.sha256(common_name.encode()).digest()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2050, 1, 1, tzinfo=dt.UTC))
    )
    return builder.sign(key, None).public_bytes(serialization.Encoding.DER)
