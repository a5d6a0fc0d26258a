"""packaging/azure/cloud-init.yaml: the first boot of a VM of the template."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from support.arm import Deployment, Json
from support.bicep import AZURE
from support.deadlines import DEADLINE_SECONDS

from skragent.config import Config, parse_config

TEMPLATE = json.loads((AZURE / "main.json").read_text())
TEXT = (AZURE / "cloud-init.yaml").read_text()

# The schema of the members in this file. cloud-init's own schema, below, is complete.
SCHEMA: Json = {
    "type": "object",
    "additionalProperties": False,
    "required": ["write_files", "runcmd"],
    "properties": {
        "write_files": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path", "content", "permissions"],
                "properties": {
                    "path": {"type": "string", "pattern": "^/"},
                    "content": {"type": "string"},
                    "permissions": {"type": "string", "pattern": "^0[0-7]{3}$"},
                },
            },
        },
        "runcmd": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "string"}},
        },
    },
}


def custom_data(**parameters: Json) -> str:
    """Return the custom data of the template."""
    given = {"adminPublicKey": "ssh-ed25519 AAAA", "keyStoreName": "store"} | parameters
    vm = Deployment(TEMPLATE, **given).properties("Microsoft.Compute/virtualMachines")
    return base64.b64decode(vm["osProfile"]["customData"]).decode()


def configured(**parameters: Json) -> Config:
    """Return the configuration that cloud-init writes."""
    (file,) = yaml.safe_load(custom_data(**parameters))["write_files"]
    assert file["path"] == "/etc/skragent/skragent.toml"
    return parse_config(file["content"])


def script(**parameters: Json) -> str:
    """Return the commands of the first boot."""
    ((shell, flags, commands),) = yaml.safe_load(custom_data(**parameters))["runcmd"]
    assert (shell, flags) == ("sh", "-euc")
    return str(commands)


BOTH = pytest.mark.parametrize("text", [TEXT, custom_data()], ids=["file", "deployed"])


@BOTH
def test_the_file_is_a_cloud_config(text: str) -> None:
    assert text.startswith("#cloud-config\n")
    jsonschema.Draft7Validator(SCHEMA).validate(yaml.safe_load(text))


@BOTH
@pytest.mark.cloud_init
def test_the_file_is_valid_by_cloud_inits_schema(
    text: str, cloud_init_schema: Path
) -> None:
    schema = json.loads(cloud_init_schema.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(yaml.safe_load(text))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"write_files": [{"path": 1}]})


def test_all_placeholders_are_replaced() -> None:
    assert "@" in TEXT
    assert "@" not in custom_data()


def test_the_administrator_gets_the_key_of_the_vault() -> None:
    config = configured(keyName="disk", adminUsername="ada")
    assert list(config.keys) == ["disk"]
    assert config.keys["disk"].vault == "https://store.vault.azure.net"
    assert [rule.user for rule in config.keys["disk"].allow] == ["ada"]


def test_another_user_can_get_the_key() -> None:
    (rule,) = configured(keyUser="postgres").keys["db"].allow
    assert rule.user == "postgres"


def test_the_key_can_be_in_a_managed_hsm() -> None:
    key = configured(keyStore="managedHsm").keys["db"]
    assert key.vault == "https://store.managedhsm.azure.net"


def test_the_vms_own_identity_is_the_default() -> None:
    identity = configured().identity
    assert (identity.client_id, identity.object_id, identity.resource_id) == ("",) * 3


def test_an_assigned_identity_is_named() -> None:
    named = configured(identityKind="userAssigned").identity.resource_id
    assert named.endswith(
        "/Microsoft.ManagedIdentity/userAssignedIdentities/skragent-vm-identity"
    )


def test_configuration_and_policy_name_the_same_provider() -> None:
    own = "https://mine.weu.attest.azure.net"
    assert configured().attestation.endpoint == "auto"
    assert configured(attestationAuthority=own).attestation.endpoint == own


def test_the_shell_can_read_the_commands() -> None:
    for commands in (script(), script(packageUrl="https://x.test/a.deb?sig=a%2Fb&c=d")):
        subprocess.run(
            ["/bin/sh", "-n", "-c", commands], check=True, timeout=DEADLINE_SECONDS
        )


def first_boot(directory: Path, **parameters: Json) -> tuple[int, list[str], str]:
    """Run the commands with substitutes for those that would change the machine.

    Return the exit code, the called commands, and the output.
    """
    tools = directory / "tools"
    tools.mkdir()
    calls = directory / "calls"
    for name in ("apt-get", "chown", "systemctl", "usermod", "curl"):
        stub = f'#!/bin/sh\necho "{name} $*" >>"{calls}"\n'
        if name == "curl":  # writes the package
            stub += f'printf package >"{directory}/skragent.deb"\n'
        (tools / name).write_text(stub)
        (tools / name).chmod(0o755)
    commands = script(**parameters).replace("/var/cache/", f"{directory}/")
    done = subprocess.run(
        ["/bin/sh", "-euc", commands],
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    said = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, said, done.stdout + done.stderr


def test_the_package_is_downloaded_compared_and_installed(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"package").hexdigest()
    url = "https://blobs.test/skragent.deb"
    code, said, _ = first_boot(tmp_path, packageUrl=url, packageSha256=sha256)
    assert code == 0
    assert said[0].startswith("curl --proto =https --fail")
    assert said[0].endswith(url)
    assert [call.split()[0] for call in said[1:]] == [
        *["apt-get", "apt-get", "chown", "systemctl", "systemctl", "usermod"],
    ]
    assert said[2].endswith(f"install {tmp_path}/skragent.deb")
    assert "usermod --append --groups skragent azureuser" in said


@pytest.mark.parametrize("sha256", ["0" * 64, ""])
def test_a_package_with_another_hash_is_not_installed(
    tmp_path: Path, sha256: str
) -> None:
    url = "https://blobs.test/skragent.deb"
    code, said, _ = first_boot(tmp_path, packageUrl=url, packageSha256=sha256)
    assert code != 0
    assert [call.split()[0] for call in said] == ["curl"]


def test_an_existing_package_is_installed(tmp_path: Path) -> None:
    (tmp_path / "skragent.deb").write_bytes(b"package")
    code, said, _ = first_boot(tmp_path)
    assert code == 0
    assert said[0] == "apt-get -q update"
    assert "systemctl restart skragent.service" in said


def test_without_a_package_nothing_is_done(tmp_path: Path) -> None:
    code, said, printed = first_boot(tmp_path)
    assert (code, said) == (0, [])
    assert "no package was given" in printed
