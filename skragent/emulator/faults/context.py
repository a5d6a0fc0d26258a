"""Where faults are applied: the running emulator, and how what they do is undone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from skragent.emulator.faults.grammar import FaultError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skragent.emulator.confidential_vm import ConfidentialVm
    from skragent.emulator.emulator import Emulator
    from skragent.emulator.faults.grammar import Asked
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.service import (
        Guard,
        Mutation,
        Request,
        Response,
        ResponseHook,
        Service,
    )

TPM_HINT: Final = "The reset mends it, and so does vm.reboot."


class Site:
    """One emulator, and the faults that it has."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.stopped_pid = 0  # of a TPM that was made to hang
        self._undo = contextlib.AsyncExitStack()
        self._undone_once: set[str] = set()

    def service(self, asked: Asked) -> Service:
        """Find the service that a fault is for."""
        if asked.service in ("vault", "hsm"):
            return self.vault(asked)
        services = {
            "imds": self.emulator.imds,
            "maa": self.emulator.maa,
            "entra": self.emulator.azure.entra_id,
        }
        return services[asked.service]

    def vault(self, asked: Asked) -> Vault:
        """Find the first vault of the dialect that a fault is for."""
        is_hsm = asked.service == "hsm"
        for vault in self.emulator.vaults.values():
            if vault.dialect.is_hsm is is_hsm:
                return vault
        raise FaultError(f"this emulator has no {asked.service}")

    def vm(self) -> ConfidentialVm:
        """Give the VM, if its TPM can be asked.

        One that hangs would keep the fault waiting, and the reset behind it.
        """
        vm = self.emulator.vm
        if vm.vtpm.process.pid == self.stopped_pid:
            raise FaultError("the TPM hangs", hint=TPM_HINT)
        return vm

    def guard(self, asked: Asked, guard: Guard) -> None:
        """Judge the requests that a fault is for."""
        concerns = _concerns(asked)

        def judge(request: Request) -> None:
            if concerns(request):
                guard(request)

        self.service(asked).guard(asked.name, judge)

    def hook(self, asked: Asked, hook: ResponseHook) -> None:
        """Change the answers that a fault is for."""
        concerns = _concerns(asked)

        async def change(request: Request, response: Response) -> Response:
            return await hook(request, response) if concerns(request) else response

        self.service(asked).hook(asked.name, change)

    def mutate(self, asked: Asked, step: str, mutation: Mutation) -> None:
        """Change a step's values, as many as a fault is for."""
        is_left = counter(asked)

        def change(value: Any) -> Any:  # noqa: ANN401 - any value of a step
            return mutation(value) if is_left() else value

        self.service(asked).mutate(step, change, asked.name)

    def on_reset(self, undo: Callable[[], Awaitable[None]], once: str = "") -> None:
        """Undo this at the reset, before what was done earlier.

        Args:
            undo: brings back what was before.
            once: of several with this name the first knows how it was; it is enough.
        """
        if once not in self._undone_once:
            self._undo.push_async_callback(undo)
        self._undone_once |= {once} - {""}

    async def reset(self) -> None:
        """Undo everything."""
        self.emulator.azure.clear_hooks()
        undo, self._undo = self._undo, contextlib.AsyncExitStack()
        self._undone_once.clear()
        await undo.aclose()


def counter(asked: Asked) -> Callable[[], bool]:
    """Count down from `times`; without it there is no end."""
    left: int | None = asked.options.get("times")

    def is_left() -> bool:
        nonlocal left
        if left is None:
            return True
        left -= 1
        return left >= 0

    return is_left


def _concerns(asked: Asked) -> Callable[[Request], bool]:
    """Tell the requests that a fault is for: by `path`, then by `times`."""
    path: str = asked.options.get("path", "")
    is_left = counter(asked)
    return lambda request: path.lower() in request.path.lower() and is_left()
