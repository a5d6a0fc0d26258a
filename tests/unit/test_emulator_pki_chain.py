"""The emulated web PKI: chains that strict verifiers accept, and that last."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store
from support.azure_vm import (
    NOW,
)

from skragent.emulator.addresses import VaultPlan
from skragent.emulator.pki import Pki, ServerIdentity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pki")


def _server(pki: Pki, plan: VaultPlan) -> ServerIdentity:
    return pki.server(plan.name, plan.certificate_names)


@pytest.mark.parametrize(
    ("plan", "subject"),
    [
        (VaultPlan("a"), x509.DNSName("any.vault.azure.net")),
        (VaultPlan("a"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))),
        (VaultPlan("b", "hsm"), x509.DNSName("b.managedhsm.azure.net")),
        (VaultPlan("b", "hsm"), x509.DNSName("eastus2.b.managedhsm.azure.net")),
    ],
)
def test_strict_verifier_accepts_the_chain_for_the_vaults_names(
    directory: Path, plan: VaultPlan, subject: x509.DNSName | x509.IPAddress
) -> None:
    pki = Pki(directory, NOW)
    leaf, intermediate, root = _server(pki, plan).chain
    verifier = (
        PolicyBuilder().store(Store([root])).time(NOW).build_server_verifier(subject)
    )
    assert len(verifier.verify(leaf, [intermediate])) == 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_accepts_the_chain(directory: Path, tmp_path: Path) -> None:
    pki = Pki(directory, NOW)
    leaf, intermediate, root = _server(pki, VaultPlan("a")).chain
    for name, cert in (("leaf", leaf), ("int", intermediate), ("root", root)):
        (tmp_path / name).write_bytes(cert.public_bytes(Encoding.PEM))
    command = "openssl verify -x509_strict -purpose sslserver -attime"
    outcome = subprocess.run(
        [
            *command.split(),
            str(int(NOW.timestamp())),
            "-CAfile",
            "root",
            "-untrusted",
            "int",
            "leaf",
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr


def test_certificates_survive_a_restart(directory: Path) -> None:
    first = _server(Pki(directory, NOW), VaultPlan("a"))
    second = _server(Pki(directory, NOW), VaultPlan("a"))
    assert first.chain == second.chain


def test_certificate_that_is_nearly_over_is_renewed(directory: Path) -> None:
    first = _server(Pki(directory, NOW), VaultPlan("a"))
    later = NOW + dt.timedelta(days=380)
    second = _server(Pki(directory, later), VaultPlan("a"))
    assert first.leaf.not_valid_after_utc < second.leaf.not_valid_after_utc
    assert first.key.private_numbers() == second.key.private_numbers()


def test_certificate_follows_its_names(tmp_path: Path) -> None:
    pki = Pki(tmp_path, NOW)
    pki.server("s", ["one.test"])
    leaf = pki.server("s", ["one.test", "127.0.0.1"]).leaf
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["one.test"]
    assert len(names) == 2


def test_private_keys_are_readable_by_their_owner_alone(directory: Path) -> None:
    _server(Pki(directory, NOW), VaultPlan("a"))
    for path in [*directory.glob("*.key"), directory / "a.pem"]:
        assert path.stat().st_mode & 0o077 == 0, path
