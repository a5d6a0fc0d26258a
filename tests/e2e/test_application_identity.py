"""Applications of Entra ID: a real releaser gets tokens of the emulated Entra ID."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from support.e2e import config_for
from support.releaser import Releaser

from skragent.emulator.imds.identities import TENANT_ID
from skragent.job import Failure

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

KINDS = ["certificate", "secret_file", "token_file"]
UNKNOWN = "11111111-2222-3333-4444-555555555555"


def releaser(
    emulator: EmulatorThread, directory: Path, kind: str, **changes: str
) -> Releaser:
    """Make a releaser for the key `demo`, which the application requests."""
    azure = emulator.instance.azure
    files = azure.application_files
    paths = {
        "certificate": files.certificate,
        "secret_file": files.secret,
        "token_file": files.token,
    }
    settings = {
        "tenant_id": TENANT_ID,
        "client_id": azure.application.client_id,
        kind: str(paths[kind].resolve()),
    } | changes
    lines = [f'{name} = "{value}"' for name, value in settings.items()]
    text = "\n".join(
        [config_for(emulator, directory, "demo"), "[identity]", *lines, ""]
    )
    return Releaser(
        text,
        "release",
        now=azure.clock.now(),
        authority=azure.entra_id.origin,
    )


def failure(runner: Releaser) -> Failure:
    """Run the releaser, and return the failure of the only key."""
    result = runner.run()
    assert result.released == ()
    (failed,) = result.failed
    return failed.failure


@pytest.mark.parametrize("kind", KINDS)
def test_key_is_released_to_an_application(
    emulator: EmulatorThread, directory: Path, kind: str
) -> None:
    before = len(emulator.instance.requests)
    runner = releaser(emulator, directory, kind)
    result = runner.run()
    assert result.failed == ()
    (released,) = result.released
    part = released.forms["der"]
    der = bytes(runner.arena.view(part.offset, part.length))
    stored = emulator.instance.vault.store.find("demo")
    assert stored is not None
    theirs, ours = stored.latest.material, load_der_private_key(der, None)
    assert isinstance(theirs, rsa.RSAPrivateKey)
    assert isinstance(ours, rsa.RSAPrivateKey)
    assert ours.private_numbers() == theirs.private_numbers()
    asked = emulator.instance.requests[before:]
    assert not [entry for entry in asked if "/identity/" in entry.target]


@pytest.fixture
def without_permission(emulator: EmulatorThread) -> Iterator[None]:
    """The application has no permission in the vault."""
    access = emulator.instance.vault.access
    who = emulator.instance.azure.application
    access.grants.pop(who.object_id, None)
    yield
    access.grant(who.object_id)


@pytest.mark.usefixtures("without_permission")
def test_application_without_permission_is_denied_by_the_vault(
    emulator: EmulatorThread, directory: Path
) -> None:
    found = failure(releaser(emulator, directory, "secret_file"))
    assert found.code == "release.denied.permission"
    assert emulator.instance.azure.application.client_id in found.message
    assert found.disposition == "denied"


@pytest.mark.parametrize(
    ("kind", "changes", "number"),
    [
        ("secret_file", {"client_id": UNKNOWN}, "AADSTS700016"),
        ("certificate", {"client_id": UNKNOWN}, "AADSTS700016"),
    ],
)
def test_application_that_entra_does_not_know_is_refused(
    emulator: EmulatorThread,
    directory: Path,
    kind: str,
    changes: dict[str, str],
    number: str,
) -> None:
    found = failure(releaser(emulator, directory, kind, **changes))
    assert (found.code, found.disposition) == ("identity.denied", "retry_slowly")
    assert number in found.message


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("secret_file", "another-secret", "AADSTS7000215"),
        ("token_file", "no.json.web", "AADSTS50027"),
    ],
)
def test_application_without_valid_credentials_is_refused(
    emulator: EmulatorThread, directory: Path, kind: str, text: str, number: str
) -> None:
    file = directory / "file"
    file.write_text(text)
    found = failure(releaser(emulator, directory, kind, **{kind: str(file)}))
    assert (found.code, found.disposition) == ("identity.denied", "retry_slowly")
    assert number in found.message
    assert text not in found.message


@pytest.mark.parametrize(
    "fault", ["entra.status=503", "entra.status=429", "entra.reset", "entra.body"]
)
def test_a_fault_of_entra_is_retried(
    emulator: EmulatorThread, directory: Path, fault: str
) -> None:
    emulator.call(emulator.instance.faults.apply(fault))
    found = failure(releaser(emulator, directory, "secret_file"))
    assert (found.code, found.disposition) == ("identity.unavailable", "retry")


def test_a_tenant_that_entra_id_does_not_know_is_named_in_the_hint(
    emulator: EmulatorThread, directory: Path
) -> None:
    """Not denied: azure-identity reports it like a proxy's page."""
    told = failure(releaser(emulator, directory, "secret_file", tenant_id=UNKNOWN))
    assert told.code == "identity.unavailable"
    assert UNKNOWN in told.message
    assert "`tenant_id`" in told.hint
    assert "managed identity" not in told.hint
