"""The key specifications of `skragent emulator --key`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skragent.emulator.keyvault.key_specs import parse_key_spec

CONDITION = {"claim": "secureboot", "equals": "true"}
POLICY = {
    "version": "1.0.0",
    "anyOf": [{"authority": "https://maa.test", "allOf": [CONDITION]}],
}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "a, b:c.json"
    path.write_text(json.dumps(POLICY))
    return path


@pytest.mark.parametrize(
    ("text", "store", "name", "kty"),
    [
        ("demo", "vault", "demo", "RSA-HSM"),
        ("demo:P-256", "vault", "demo", "EC-HSM"),
        ("vault/demo:EC", "vault", "demo", "EC-HSM"),
        ("hsm/mac:oct-256", "hsm", "mac", "oct-HSM"),
        ("hsm/hsm", "hsm", "hsm", "RSA-HSM"),
    ],
)
def test_store_name_and_kind_are_read(
    text: str, store: str, name: str, kty: str
) -> None:
    spec = parse_key_spec(text)
    assert (spec.store, spec.name, spec.parameters["kty"]) == (store, name, kty)
    assert spec.policy == b""


@pytest.mark.parametrize("head", ["k", "k:EC", "hsm/k:EC"])
def test_policy_is_read_from_the_file(policy: Path, head: str) -> None:
    spec = parse_key_spec(f"{head},policy={policy}")
    assert json.loads(spec.policy) == POLICY
    assert spec.name == "k"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("disk/k:EC", "`disk` is not a key store; choose vault or hsm"),
        ("/k:EC", "`` is not a key store"),
        ("hsm/:EC", "`` is not a key name"),
        ("a/hsm/k", "`a/hsm` is not a key store"),
        ("k:DSA", "`DSA` is not a kind of key"),
        ("k,", "`` is not an option of a key; use policy=FILE"),
        ("k:EC,tag=1", "`tag=1` is not an option of a key"),
        ("k,policy=/none/at/all", "/none/at/all cannot be read: No such file"),
        ("k,policy=/dev/zero", "/dev/zero cannot be read: this is a character device"),
        ("k,policy=/", "/ cannot be read: this is a directory"),
    ],
)
def test_invalid_key_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        parse_key_spec(text)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "it is not JSON in UTF-8"),
        (json.dumps(POLICY).encode("utf-16"), "it is not JSON in UTF-8"),
        (b'{"version": "1.0.0"}', "it must be an object of `version` and `anyOf`"),
    ],
)
def test_invalid_policy_file_is_refused_with_a_reason(
    policy: Path, content: bytes, why: str
) -> None:
    policy.write_bytes(content)
    with pytest.raises(ValueError, match="is not a release policy") as caught:
        parse_key_spec(f"k,policy={policy}")
    assert why in str(caught.value)
    assert "AKV" not in str(caught.value)
