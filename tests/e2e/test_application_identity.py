"""Applications of Entra ID: a releaser gets its token from the emulated Entra ID."""

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
    """Make a releaser that requests the key `demo` as the application."""
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
    """Run a releaser, and return the failure of its only key."""
    result = runner.run()
    assert result.released == ()
    (failed,) = result.failed
    return failed.failure


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_released_to_an_application(
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
    """Remove the application's permissions in the vault during a test."""
    access = emulator.instance.vault.access
    who = emulator.instance.azure.application
    access.grants.pop(who.object_id, None)
    yield
    access.grant(who.object_id)


@pytest.mark.usefixtures("without_permission")
def test_the_vault_denies_an_application_without_permission(
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
def test_entra_id_refuses_an_unknown_application(
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
def test_entra_id_refuses_an_application_with_a_wrong_credential(
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
def test_a_server_error_of_entra_id_is_retried(
    emulator: EmulatorThread, directory: Path, fault: str
) -> None:
    emulator.call(emulator.instance.faults.apply(fault))
    found = failure(releaser(emulator, directory, "secret_file"))
    assert (found.code, found.disposition) == ("identity.unavailable", "retry")


def test_the_hint_names_a_tenant_that_entra_id_does_not_know(
    emulator: EmulatorThread, directory: Path
) -> None:
    """The disposition is not DENIED: azure-identity reports a proxy's page likewise."""
    found = failure(releaser(emulator, directory, "secret_file", tenant_id=UNKNOWN))
    assert found.code == "identity.unavailable"
    assert UNKNOWN in found.message
    assert "`tenant_id`" in found.hint
    assert "managed identity" not in found.hint
