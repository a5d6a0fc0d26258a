"""The context of faults: the running emulator, and the steps that undo them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from skragent.emulator.faults.grammar import FaultError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skragent.emulator.confidential_vm import ConfidentialVm
    from skragent.emulator.emulator import Emulator
    from skragent.emulator.faults.grammar import FaultSpec
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.service import (
        Guard,
        Mutation,
        Request,
        Response,
        ResponseHook,
        Service,
    )

TPM_HINT: Final = "A reset of the faults, or the fault vm.reboot, restarts the TPM."


class FaultContext:
    """The emulator and its active faults."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.stopped_pid = 0  # the TPM's process that the fault vm.hang stopped
        self._undo = contextlib.AsyncExitStack()
        self._undone_once: set[str] = set()

    def service(self, spec: FaultSpec) -> Service:
        """Return the service that a fault concerns."""
        if spec.service in ("vault", "hsm"):
            return self.vault(spec)
        services = {
            "imds": self.emulator.imds,
            "maa": self.emulator.maa,
            "entra": self.emulator.azure.entra_id,
        }
        return services[spec.service]

    def vault(self, spec: FaultSpec) -> Vault:
        """Return the first vault of the dialect that a fault concerns."""
        is_hsm = spec.service == "hsm"
        for vault in self.emulator.vaults.values():
            if vault.dialect.is_hsm is is_hsm:
                return vault
        raise FaultError(f"this emulator does not have the service {spec.service}")

    def vm(self) -> ConfidentialVm:
        """Return the VM; raise if its TPM hangs.

        A TPM that hangs would block the fault, and the reset after it.
        """
        vm = self.emulator.vm
        if vm.vtpm.process.pid == self.stopped_pid:
            raise FaultError("the TPM hangs", hint=TPM_HINT)
        return vm

    def guard(self, spec: FaultSpec, guard: Guard) -> None:
        """Call a guard with the requests that a fault concerns."""
        concerns = _concerns(spec)

        def judge(request: Request) -> None:
            if concerns(request):
                guard(request)

        self.service(spec).guard(spec.name, judge)

    def hook(self, spec: FaultSpec, hook: ResponseHook) -> None:
        """Change the responses that a fault concerns."""
        concerns = _concerns(spec)

        async def change(request: Request, response: Response) -> Response:
            return await hook(request, response) if concerns(request) else response

        self.service(spec).hook(spec.name, change)

    def mutate(self, spec: FaultSpec, step: str, mutation: Mutation) -> None:
        """Change a step's values, as often as the fault's `times` allows."""
        is_left = counter(spec)

        def change(value: Any) -> Any:  # noqa: ANN401 - any value of a step
            return mutation(value) if is_left() else value

        self.service(spec).mutate(step, change, spec.name)

    def on_reset(self, undo: Callable[[], Awaitable[None]], once: str = "") -> None:
        """Register a step to run at the reset; the last registered runs first.

        Args:
            undo: restores the state from before the fault.
            once: a name; only the first step with this name is registered.
        """
        if once not in self._undone_once:
            self._undo.push_async_callback(undo)
        self._undone_once |= {once} - {""}

    async def reset(self) -> None:
        """Undo all faults."""
        self.emulator.azure.clear_hooks()
        undo, self._undo = self._undo, contextlib.AsyncExitStack()
        self._undone_once.clear()
        await undo.aclose()


def counter(spec: FaultSpec) -> Callable[[], bool]:
    """Return a function that counts down from `times`; without `times`, always true."""
    left: int | None = spec.options.get("times")

    def is_left() -> bool:
        nonlocal left
        if left is None:
            return True
        left -= 1
        return left >= 0

    return is_left


def _concerns(spec: FaultSpec) -> Callable[[Request], bool]:
    """Return a filter for the requests that a fault concerns: `path`, then `times`."""
    path: str = spec.options.get("path", "")
    is_left = counter(spec)
    return lambda request: path.lower() in request.path.lower() and is_left()
