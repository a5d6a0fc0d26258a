"""docs/azure.md agrees with packaging/azure."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from support.arm import Deployment, Json
from support.azure_vm import VM_ID
from support.bicep import AZURE
from support.deadlines import DEADLINE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = json.loads((AZURE / "main.json").read_text())
PAGE = (AZURE.parents[1] / "docs" / "azure.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
DEPLOYMENTS = [line for line in COMMANDS if "deployment group create" in line]
ROWS = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)


def parameters_of(command: str) -> dict[str, Json]:
    """Return the template parameters of `az deployment group create`."""
    text = re.sub(r"\$\((?:[^()]|\([^)]*\))*\)", "x", command)
    words = shlex.split(text)
    pairs = (w.split("=", 1) for w in words[words.index("--parameters") + 1 :])
    return {n: json.loads(v) if v.startswith("[") else v for n, v in pairs}


def test_the_shell_can_read_every_block() -> None:
    assert len(BLOCKS) >= 4
    for block in BLOCKS:
        subprocess.run(
            ["/bin/bash", "-n", "-c", block], check=True, timeout=DEADLINE_SECONDS
        )


def test_every_command_has_its_explanation() -> None:
    for block in BLOCKS:
        for paragraph in block.strip().split("\n\n"):
            assert paragraph.startswith("# "), paragraph


@pytest.mark.parametrize("command", DEPLOYMENTS, ids=["vault", "hsm"])
def test_each_deployment_has_parameters_of_the_template(command: str) -> None:
    assert "--template-file packaging/azure/main.bicep" in command
    given = parameters_of(command)
    deployment = Deployment(TEMPLATE, **given)
    hsm = "Microsoft.KeyVault/managedHSMs"
    assert (hsm in deployment.resources) == (given.get("keyStore") == "managedHsm")


def test_every_output_in_a_command_exists() -> None:
    asked = set(re.findall(r"properties\.outputs\.(\w+)\.value", PAGE))
    assert len(asked) >= 3
    assert asked <= TEMPLATE["outputs"].keys()


def test_the_table_has_every_parameter() -> None:
    named = {name for row, _, _ in ROWS for name in re.findall(r"`(\w+)`", row)}
    assert named == TEMPLATE["parameters"].keys()


def test_the_table_has_the_defaults() -> None:
    defaults: dict[str, str] = {}
    for row, told, _ in ROWS:
        names, values = re.findall(r"`(\w+)`", row), told.split(", ")
        if len(names) == len(values):
            defaults |= dict(zip(names, values, strict=True))
    for name in (
        *("adminUsername", "keyStore", "retentionDays", "keyName", "keySize"),
        *("permissionModel", "identityKind", "vmName", "vmSize", "diskEncryption"),
        "pinToVm",
    ):
        default = TEMPLATE["parameters"][name]["defaultValue"]
        written = default if isinstance(default, str) else json.dumps(default)
        assert defaults[name].strip("`") == written, name


def test_the_commands_use_the_default_names() -> None:
    parameters = TEMPLATE["parameters"]
    assert f"--name {parameters['vmName']['defaultValue']} " in PAGE
    assert f"skragent get {parameters['keyName']['defaultValue']} " in PAGE
    assert f"--username {parameters['adminUsername']['defaultValue']} " in PAGE


def test_the_page_names_the_claims_of_the_policy() -> None:
    policy = json.loads((AZURE / "release-policy.json").read_text())
    *fixed, pin = policy["anyOf"][0]["allOf"]
    for condition in fixed:
        claim = f"`{condition['claim']}` = `{condition['equals']}`"
        assert claim in PAGE.replace("\n", " ")
    assert f"`{pin['claim']}` = the id of this VM, in upper case" in PAGE
    assert f"`{pin['equals']}`" in PAGE


def test_the_policy_made_by_hand_is_the_templates(tmp_path: Path) -> None:
    (block,) = [block for block in BLOCKS if "--query vmId" in block]
    az = tmp_path / "az"
    az.write_text(f"#!/bin/sh\necho {VM_ID.lower()}\n")
    az.chmod(0o755)
    block = block.replace("> policy.json", f'> "{tmp_path}/policy.json"')
    subprocess.run(
        ["/bin/bash", "-euc", block],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        cwd=AZURE.parents[1],
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    deployed = Deployment(TEMPLATE, adminPublicKey="x", location="westeurope")
    policy = (tmp_path / "policy.json").read_text()
    assert policy == deployed.outputs["releasePolicy"]


def test_a_vm_that_was_created_again_gets_its_key_by_set_attributes() -> None:
    (command,) = [c for c in COMMANDS if "key set-attributes" in c]
    words = shlex.split(command)
    assert words[:4] == ["az", "keyvault", "key", "set-attributes"]
    assert words[words.index("--policy") + 1] == "policy.json"
    assert "--version" not in words  # a policy belongs to the key: AKV.SKR.1016


def test_the_page_names_the_parameter_and_the_policy_for_scale_sets() -> None:
    assert "`pinToVm=false`" in PAGE
    assert "(../packaging/azure/release-policy-scale-set.json)" in PAGE


@pytest.mark.parametrize("path", ["docs/azure.md", "packaging/man/skragent.service.8"])
def test_the_service_tag_is_named_without_a_region(path: str) -> None:
    """The tag has no regional form.

    https://learn.microsoft.com/azure/virtual-network/service-tags-overview
    """
    text = (AZURE.parents[1] / path).read_text()
    assert re.search(r"\bAzureAttestation\b", text)
    assert not re.search(r"\bAzureAttestation\.\w", text)
