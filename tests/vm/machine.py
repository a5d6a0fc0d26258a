"""The VM: QEMU without KVM, swtpm as its TPM, and the connections to the host.

One directory holds all files, and all processes end with the process of the tests.
QEMU writes changes of the disk to a temporary file. Connections of the guest to the
address of IMDS, and to the address that its /etc/hosts has for Azure's names, go to
Unix sockets. There is no other network.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Self

from vm.guest import BUSY_FACTOR, Guest, GuestError

from skragent.emulator.addresses import IMDS_ADDRESS

BOOT_SECONDS = 180.0
TLS_ADDRESS = "169.254.169.253"
_NETWORK = "169.254.169.0/24"
_KERNEL_LINE = (
    "root=/dev/nvme0n1 rootfstype=ext4 rw console=ttyS0 panic=-1 net.ifnames=0"
    # Before Linux 6.5 secret memory is disabled by default.
    " secretmem.enable=1 quiet loglevel=4 systemd.show_status=0"
    # Avoid what is slow on an emulated CPU: other clocks than the TSC, mitigations of
    # CPU vulnerabilities, five-level page tables. They took a third of the time.
    " clocksource=tsc tsc=reliable mitigations=off no5lvl nosmap nosmep nopku"
    " rcupdate.rcu_expedited=1"
)


class Machine:
    """One VM, from power on to power off."""

    def __init__(
        self,
        directory: Path,
        *,
        image: Path,
        payload: Path,
        imds: Path,
        tls: Path,
        console: Path,
    ) -> None:
        """Describe the machine.

        Args:
            directory: has the TPM's state in `tpm`; its path must be short.
            image: a directory with `root.ext4` and `vmlinuz`.
            payload: the content of the second disk.
            imds: the Unix socket of IMDS.
            tls: the Unix socket of all services with TLS.
            console: the file for the output of the guest's console.
        """
        self.directory = directory
        self.guest = Guest(directory / "qga.sock")
        self._image, self._payload = image, payload
        self._imds, self._tls = imds, tls
        self._console = console
        self._processes: list[subprocess.Popen[bytes]] = []
        # A scenario sets this after a change that only a reboot undoes.
        self.needs_reboot = False

    def __enter__(self) -> Self:
        try:
            self._start_tpm()
            self._start("qemu", self._qemu())
            self._wait_for_guest()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def reboot(self) -> None:
        """Reboot the guest, and its TPM with it."""
        before = self._boot_id()
        # Do not wait: the guest agent may stop before it reports the result.
        self.guest.start("systemctl reboot --no-block")
        self.needs_reboot = False
        deadline = time.monotonic() + BOOT_SECONDS * BUSY_FACTOR
        while self._boot_id() in ("", before):
            if time.monotonic() > deadline:
                raise GuestError("the guest did not come back")
        self.guest.connect(BOOT_SECONDS)

    def _boot_id(self) -> str:
        """Return the boot ID, or an empty string if the guest does not answer."""
        try:
            # During a shutdown the guest agent answers nothing.
            self.guest.connect(1.0, reply_timeout=1.0)
            return self.guest.check("cat /proc/sys/kernel/random/boot_id", timeout=10)
        except GuestError:
            return ""

    def _wait_for_guest(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS * BUSY_FACTOR
        while True:
            try:
                self.guest.connect(1.0)
            except GuestError:
                if self._processes[-1].poll() is not None:
                    raise GuestError(self._failure_to_start("qemu")) from None
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def _start_tpm(self) -> None:
        tpm, control = self.directory / "tpm", self.directory / "swtpm.sock"
        self._start(
            "swtpm",
            [
                "swtpm", "socket", "--tpm2",
                "--tpmstate", f"dir={tpm},mode=0600",
                "--ctrl", f"type=unixio,path={control}",
                "--terminate",
            ],
        )  # fmt: skip
        deadline = time.monotonic() + 10 * BUSY_FACTOR
        while not control.exists():
            if self._processes[0].poll() is not None or time.monotonic() > deadline:
                raise GuestError(self._failure_to_start("swtpm"))
            time.sleep(0.01)  # noqa: TID251 - swtpm sends no event

    def _qemu(self) -> list[str]:
        directory, agent = self.directory, self.directory / "qga.sock"
        forwards = ",".join(
            f"guestfwd=tcp:{address}-cmd:socat - UNIX-CONNECT:{path}"
            for address, path in (
                (f"{IMDS_ADDRESS}:80", self._imds),
                (f"{TLS_ADDRESS}:443", self._tls),
            )
        )
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config",
            # Never KVM: nested KVM may hang, and without KVM all hosts behave alike.
            "-accel", "tcg,thread=multi",
            "-machine", "pc", "-cpu", "max", "-smp", "2", "-m", "1024",
            "-display", "none", "-serial", f"file:{self._console}",
            "-kernel", f"{self._image / 'vmlinuz'}", "-append", _KERNEL_LINE,
            *_disk("root", self._image / "root.ext4", "snapshot=on,cache=unsafe"),
            *_disk("payload", self._payload, "readonly=on"),
            "-chardev", f"socket,id=tpm,path={directory / 'swtpm.sock'}",
            "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=qga,path={agent},server=on,wait=off",
            "-device", "virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
            "-netdev", f"user,id=n0,restrict=on,ipv6=off,net={_NETWORK},{forwards}",
            "-device", "virtio-net-pci,netdev=n0,romfile=",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip

    def _start(self, name: str, command: list[str]) -> None:
        # The kernel kills the process when this process ends in any way.
        guard = ["setpriv", "--pdeathsig", signal.Signals.SIGKILL.name[3:]]
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*(guard if shutil.which("setpriv") else []), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)

    def _failure_to_start(self, name: str) -> str:
        log = (self.directory / f"{name}.log").read_text(errors="replace")
        return f"{name} did not start: {log.strip()}"


def _disk(name: str, path: Path, options: str) -> list[str]:
    drive = f"file={path},format=raw,if=none,id={name},{options}"
    return ["-drive", drive, "-device", f"nvme,drive={name},serial={name}"]
