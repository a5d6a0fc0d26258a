"""A guest's AK certificate that expires soon, and releasers that renew it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import TPM2_ALG, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

from skragent.emulator.emulator import Emulator
from skragent.emulator.thread import EmulatorThread
from skragent.emulator.tpm.messages import (
    CC_NV_DEFINE_SPACE,
    CC_NV_UNDEFINE_SPACE,
    CC_NV_WRITE,
)
from skragent.evidence.ak_index import AkIndex
from skragent.evidence.tpm import NV_AK_CERTIFICATE, Vtpm
from skragent.job import Job, Result, arena_bytes
from skragent.secretmem import create_arena

RELEASER = (sys.executable, "-I", "-m", "skragent.releaser")
DEADLINE_SECONDS = 60.0
_NOWHERE = "http://127.0.0.1:1"  # no IMDS

# Beside the owner's and its own password for reading.
_READ = TPMA_NV.OWNERREAD | TPMA_NV.AUTHREAD
OWNERS = int(_READ | TPMA_NV.OWNERWRITE | TPMA_NV.AUTHWRITE)  # as Azure's
ITS_PASSWORDS = int(_READ | TPMA_NV.AUTHWRITE)


@dataclass(frozen=True)
class Kind:
    """How the guest's index looks, and how large certificates are."""

    name: str
    size: int  # 0: as long as the certificate
    old_bytes: int  # beside the 827 that a certificate has
    new_bytes: int  # the same, of the new certificate
    attributes: int = OWNERS

    def __str__(self) -> str:
        return self.name


AT_ONCE = Kind("at once", 1000, 0, 0)
IN_PIECES = Kind("in pieces", 2048, 600, 550)
ANEW = Kind("anew", 0, 550, 600)
KINDS = (AT_ONCE, IN_PIECES, ANEW)

# The commands that change the index.
CHANGES = (CC_NV_WRITE, CC_NV_UNDEFINE_SPACE, CC_NV_DEFINE_SPACE)


@dataclass
class Guest:
    """The VM, as its guest has it: an index, a directory for copies."""

    emulator: EmulatorThread
    state: Path
    kind: Kind = ANEW
    old: bytes = b""
    new: bytes = b""  # what THIM made last
    seen: list[int] = field(default_factory=list)  # TPM commands of the last renewal
    is_thim_mute: bool = False
    on_renewal: Callable[[], None] = lambda: None  # in the emulator's thread

    @property
    def instance(self) -> Emulator:
        return self.emulator.instance

    def prepare(self, kind: Kind, days: int = 30) -> None:
        """Prepare an index of this kind with a certificate that expires soon."""
        self.kind = kind
        paravisor = self.instance.vm.paravisor
        paravisor.ak_certificate_extra_bytes = kind.old_bytes
        if paravisor.owns_ak_certificate:
            self.break_("vm.ak_cert_guests")
        self.break_(f"vm.ak_cert_days={days}")
        index = self.index()
        assert index is not None
        assert index.content is not None
        self.old, self.new = index.content, b""
        define_index(self.instance.vm.tcti, self.old, kind.attributes, kind.size)
        paravisor.ak_certificate_extra_bytes = kind.new_bytes
        self.instance.imds.mutate("renewal", self._note_renewal)

    def close(self) -> None:
        """Take out of the emulator what its reset leaves in."""
        self.lift()
        self.instance.vm.paravisor.ak_certificate_extra_bytes = 0

    def _note_renewal(self, answer: dict[str, str]) -> dict[str, str]:
        if self.is_thim_mute:
            return {}
        made = x509.load_pem_x509_certificate(answer["AkCertPem"].encode())
        self.new = made.public_bytes(Encoding.DER)
        self.on_renewal()
        return answer

    def break_(self, *faults: str) -> None:
        for fault in faults:
            self.emulator.call(self.instance.faults.apply(fault))

    def lift(self) -> None:
        """Remove all guards, so that the TPM answers again."""
        self.instance.vm.vtpm.guards.clear()

    def index(self) -> AkIndex | None:
        with Vtpm(self.instance.vm.tcti) as vtpm:
            return vtpm.read_ak_index()

    def holds(self) -> str:
        """Return the certificate in the index, followed only by zeros."""
        index = self.index()
        if index is None or index.content is None:
            return "none"
        for name, der in (("old", self.old), ("new", self.new)):
            if der and index.content == der.ljust(index.size, b"\0"):
                return name
        return "a mixture"

    @property
    def copy(self) -> Path:
        return self.state / "ak-certificate.pem"

    def job(self, purpose: str = "renew", **changes: object) -> Job:
        job = Job(
            purpose="renew",
            now=self.instance.azure.clock.now(),
            timeout_seconds=DEADLINE_SECONDS,
            keys=(),
            arena_fd=-1,
            arena_bytes=arena_bytes(0),
            tcti=self.instance.vm.tcti,
            tcg_log="",
            imds_endpoint=self.instance.azure.imds_url,
            amd_roots="",
            attestation_endpoint="",
            authority="",
            tls_roots="",
            release_roots="",
            state_directory=str(self.state),
        )
        return msgspec.structs.replace(job, purpose=purpose, **changes)

    def renew(
        self,
        on_command: Callable[[int, subprocess.Popen[bytes]], None] | None = None,
        **changes: Any,  # noqa: ANN401 - as those of a job
    ) -> Outcome:
        """Run a releaser that renews.

        Args:
            on_command: is called before each TPM command, in the emulator's thread,
                with the command's code.
            changes: other values in the job.
        """
        self.seen.clear()
        with releaser(self.job(**changes)) as running, self._guard(running, on_command):
            out, err = running.communicate(timeout=DEADLINE_SECONDS)
        result = msgspec.json.decode(out, type=Result) if out else None
        return Outcome(running.returncode, result, err.decode())

    def restore(self) -> Outcome:
        """Run a releaser as the next start does; it gets no new certificate."""
        return self.renew(imds_endpoint=_NOWHERE)

    @contextlib.contextmanager
    def _guard(
        self,
        running: subprocess.Popen[bytes],
        on_command: Callable[[int, subprocess.Popen[bytes]], None] | None,
    ) -> Iterator[None]:
        is_over = threading.Event()

        def guard(code: int) -> None:
            if not is_over.is_set():
                self.seen.append(code)
                if on_command is not None:
                    on_command(code, running)

        guards = self.instance.vm.vtpm.guards
        guards["test"] = guard
        try:
            yield
        finally:
            is_over.set()
            guards.pop("test", None)


@dataclass(frozen=True)
class Outcome:
    """The result of a releaser."""

    status: int
    result: Result | None
    stderr: str

    @property
    def code(self) -> str:
        """The failure's code; empty: it succeeded."""
        assert self.result is not None, self.stderr
        return self.result.failure.code if self.result.failure else ""


@contextlib.contextmanager
def releaser(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """Start a releaser on a job; nothing is left of it afterwards."""
    arena = create_arena(arena_bytes(len(job.keys)))
    job = msgspec.structs.replace(job, arena_fd=arena.fd, arena_bytes=arena.size)
    process = subprocess.Popen(
        RELEASER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(arena.fd,),
        start_new_session=True,
    )
    arena.close_fd()
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
        process.stdin = None
        yield process
    finally:
        process.kill()
        process.communicate()


def define_index(
    tcti: str, content: bytes, attributes: int, size: int = 0, *, password: str = ""
) -> None:
    """Define the AK certificate's index anew, with a password of its own."""
    size = size or len(content)
    public = TPMS_NV_PUBLIC(
        nvIndex=NV_AK_CERTIFICATE,
        nameAlg=TPM2_ALG.SHA256,
        attributes=attributes,
        dataSize=size,
    )
    padded = content.ljust(size, b"\0")
    with ESAPI(tcti) as esys:
        handle = esys.tr_from_tpmpublic(NV_AK_CERTIFICATE)
        esys.nv_undefine_space(handle)
        handle = esys.nv_define_space(password, TPM2B_NV_PUBLIC(nvPublic=public))
        for at in range(0, size, 1024):
            esys.nv_write(handle, padded[at : at + 1024], at)
