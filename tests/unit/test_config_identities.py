"""Names of managed identities, and the keys that use them."""

from __future__ import annotations

import pytest

from skragent.agent.jobs import key_requests
from skragent.config import parse_config
from skragent.errors import ConfigError
from skragent.identity import Identity

UUID = "11111111-2222-3333-4444-555555555555"
RESOURCE = (
    f"/subscriptions/{UUID}/resourceGroups/keys-rg/providers"
    "/Microsoft.ManagedIdentity/userAssignedIdentities/backup-id"
)
KEY = '[keys.a]\nvault = "https://v.vault.azure.net"\n'


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("setting", "value"),
    [("client_id", UUID), ("object_id", UUID), ("resource_id", RESOURCE)],
)
def test_each_name_of_an_identity_is_enough(setting: str, value: str) -> None:
    config = parse_config(f'[identity]\n{setting} = "{value}"\n{KEY}')
    assert key_requests(config)["a"].identity == Identity(**{setting: value})


def test_without_a_name_it_is_the_system_assigned_one() -> None:
    assert key_requests(parse_config(KEY))["a"].identity == Identity()


def test_a_key_may_have_another_identity_than_the_rest() -> None:
    config = parse_config(
        f'[identities.other]\nobject_id = "{UUID}"\n{KEY}'
        f'[keys.b]\nidentity = "other"\nvault = "https://v.vault.azure.net"\n'
    )
    requests = key_requests(config)
    assert requests["a"].identity == Identity()
    assert requests["b"].identity == Identity(object_id=UUID)


def test_two_names_of_one_identity_are_one_too_many() -> None:
    text = f'[identity]\nclient_id = "{UUID}"\nobject_id = "{UUID}"\n{KEY}'
    assert problem_of(text).startswith("identity: give one of client_id, object_id")


@pytest.mark.parametrize("where", ["identity", "identities.x"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("client_id", "backup"),
        ("object_id", f"{UUID}0"),
        ("resource_id", "backup-id"),
        ("resource_id", RESOURCE.replace("/keys-rg", "")),
        ("resource_id", f"{RESOURCE}/more"),
        ("resource_id", RESOURCE.replace("backup-id", "backup&object_id=1")),
    ],
)
def test_an_invalid_name_of_an_identity_is_rejected(
    where: str, setting: str, value: str
) -> None:
    problem = problem_of(f'[{where}]\n{setting} = "{value}"\n{KEY}')
    assert problem.startswith(f"{where}.{setting}: must be ")


def test_an_identity_that_is_not_there_is_told_with_the_one_that_was_meant() -> None:
    text = f'[identities.backup]\n{KEY}identity = "bakcup"\n'
    assert problem_of(text) == (
        "keys.a.identity: there is no [identities.bakcup]; did you mean `backup`?"
    )


def test_a_name_of_an_identity_is_a_word() -> None:
    assert problem_of(f'[identities."a b"]\n{KEY}').startswith("identities.a b: a name")


def application(more: str, *, client: str = UUID) -> str:
    return f'[identity]\ntenant_id = "{UUID}"\nclient_id = "{client}"\n{more}\n{KEY}'


@pytest.mark.parametrize("file", ["certificate", "secret_file", "token_file"])
def test_an_application_is_known_by_one_of_its_files(file: str) -> None:
    config = parse_config(application(f'{file} = "/etc/app"'))
    who = key_requests(config)["a"].identity
    assert who == Identity(tenant_id=UUID, client_id=UUID, **{file: "/etc/app"})


def test_a_tenant_may_be_a_domain() -> None:
    text = application('token_file = "/t"').replace(
        f'tenant_id = "{UUID}"', 'tenant_id = "example.onmicrosoft.com"'
    )
    assert parse_config(text).identity.tenant_id == "example.onmicrosoft.com"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (application(""), "identity: give one of certificate, secret_file"),
        (
            application('certificate = "/a"\nsecret_file = "/b"'),
            "identity: give one of certificate, secret_file",
        ),
        (
            application('certificate = "/a"', client=""),
            "identity.client_id: missing",
        ),
        (application('certificate = "a.pem"'), "identity.certificate: must be an abs"),
        (
            application('certificate = "/a"').replace(UUID, "a b", 1),
            "identity.tenant_id: must be a UUID or a domain",
        ),
        (
            f'[identity]\nsecret_file = "/a"\n{KEY}',
            "identity.secret_file: only for an application",
        ),
    ],
)
def test_an_incomplete_application_is_rejected(text: str, problem: str) -> None:
    assert problem_of(text).startswith(problem)
