"""A real TPM 2.0 (swtpm) on a Unix socket, with an AK at Azure's handle.

The tests of skragent.evidence use it. They define other objects through `esys`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.deadlines import DEADLINE_SECONDS, wait_until

os.environ["TSS2_LOG"] = "all+NONE"  # before the import: it is read once

from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPMA_NV
from tpm2_pytss.types import (
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMS_NV_PUBLIC,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

AK_HANDLE = 0x81000003

# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign;
# RSASSA with SHA-256: OpenHCL's ak_pub_template.
_AK_TEMPLATE = bytes.fromhex(
    "0018 0001 000b 00050472 0000 0010 0014 000b 0800 00000000 0000"
)


class Swtpm:
    """A running swtpm: its TCTI, and a connection to prepare it with."""

    def __init__(self, tcti: str, pid: int) -> None:
        self.tcti = tcti
        self.pid = pid

    @contextlib.contextmanager
    def esys(self) -> Iterator[Any]:
        """A connection; swtpm serves one at a time, so close it before the next."""
        esys = ESAPI(self.tcti)
        try:
            yield esys
        finally:
            esys.close()

    def define(
        self,
        index: int,
        content: bytes | None,
        size: int = 0,
        *,
        is_readable: bool = True,
    ) -> None:
        """Define an NV index, for its owner to read; write it unless None."""
        reader = TPMA_NV.OWNERREAD if is_readable else TPMA_NV.AUTHREAD
        attributes = reader | TPMA_NV.OWNERWRITE | TPMA_NV.NO_DA
        public = TPM2B_NV_PUBLIC(
            nvPublic=TPMS_NV_PUBLIC(
                nvIndex=index,
                nameAlg=TPM2_ALG.SHA256,
                attributes=attributes,
                dataSize=size or len(content or b""),
            )
        )
        with self.esys() as esys:
            handle = esys.nv_define_space(None, public, auth_handle=ESYS_TR.OWNER)
            for offset in range(0, len(content or b""), 1024):
                chunk = (content or b"")[offset : offset + 1024]
                esys.nv_write(handle, chunk, offset, auth_handle=ESYS_TR.OWNER)

    def extend(self, pcr: int) -> None:
        """Measure something into a PCR."""
        with self.esys() as esys:
            esys.pcr_event(ESYS_TR(pcr), b"something")

    def create_ak(self, scheme: int = TPM2_ALG.RSASSA) -> None:
        """Create the AK and make it persistent at Azure's handle."""
        template = TPM2B_PUBLIC.unmarshal(_AK_TEMPLATE)[0]
        template.publicArea.parameters.rsaDetail.scheme.scheme = scheme
        with self.esys() as esys:
            sensitive = TPM2B_SENSITIVE_CREATE()
            handle, *_ = esys.create_primary(sensitive, template, ESYS_TR.OWNER)
            esys.evict_control(ESYS_TR.OWNER, handle, AK_HANDLE)
            esys.flush_context(handle)

    def allocate_only(self, bank: str) -> None:
        """Have only this bank of PCRs, from the next start on."""
        banks = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
        every, none = b"\3\xff\xff\xff", b"\3\0\0\0"
        wanted = len(banks).to_bytes(4, "big") + b"".join(
            number.to_bytes(2, "big") + (every if name == bank else none)
            for name, number in banks.items()
        )
        with self.esys() as esys:
            esys.pcr_allocate(TPML_PCR_SELECTION.unmarshal(wanted)[0])


@contextlib.contextmanager
def run_swtpm(directory: Path) -> Iterator[Swtpm]:
    """Start swtpm in a directory of its own; ends when the context does."""
    path = directory / "tpm.sock"
    process = subprocess.Popen(
        [
            "swtpm",
            "socket",
            "--tpm2",
            "--server",
            f"type=unixio,path={path}",
            "--ctrl",
            f"type=unixio,path={path}.ctrl",
            "--flags",
            "not-need-init,startup-clear",
            "--tpmstate",
            f"dir={directory}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # it tells of every disconnection
    )
    try:
        _wait_for(path, process)
        yield Swtpm(f"swtpm:path={path}", process.pid)
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the kernel says that it listens: it takes one connection at a time."""

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError("swtpm ended at once")
        return _listens(path) and _listens(path.with_name(f"{path.name}.ctrl"))

    wait_until(is_ready)


def _listens(path: Path) -> bool:
    """Look a socket up in proc(5)'s /proc/net/unix: `__SO_ACCEPTCON` is 0x10000."""
    rows = (row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:])
    return any(row[-1] == str(path) and int(row[3], 16) & 0x10000 for row in rows)
