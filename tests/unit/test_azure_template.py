"""packaging/azure: the Bicep parses, and its ARM template is equal and valid."""

from __future__ import annotations

import graphlib
import json
import re
from typing import TYPE_CHECKING

import jsonschema
import lark
import pytest
from support.arm import (
    TENANT_ID,
    USER_PRINCIPAL,
    VM_PRINCIPAL,
    Deployment,
    DeploymentError,
    Json,
    calls,
    expressions,
)
from support.azure_vm import VM_ID
from support.bicep import AZURE, ambiguous_literals, compile_file, parse

from skragent.attestation.regions import shared_endpoint

if TYPE_CHECKING:
    from pathlib import Path

BICEP = (AZURE / "main.bicep").read_text()
TEMPLATE = json.loads((AZURE / "main.json").read_text())

VAULT = "Microsoft.KeyVault/vaults"
KEY = "Microsoft.KeyVault/vaults/keys"
POLICY = "Microsoft.KeyVault/vaults/accessPolicies"
ROLE = "Microsoft.Authorization/roleAssignments"
HSM = "Microsoft.KeyVault/managedHSMs"
IDENTITY = "Microsoft.ManagedIdentity/userAssignedIdentities"
VM = "Microsoft.Compute/virtualMachines"
NETWORK = {
    "Microsoft.Network/networkSecurityGroups",
    "Microsoft.Network/virtualNetworks",
    "Microsoft.Network/publicIPAddresses",
    "Microsoft.Network/networkInterfaces",
}

# The part of https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json
# that this template uses. No package registry has the schema itself.
_EXPRESSION = {"type": "string", "pattern": r"^\[[^\[].*\]$"}
_MEMBERS = {"type": "object", "minProperties": 1}
SCHEMA: Json = {
    "type": "object",
    "additionalProperties": False,
    "required": ["$schema", "contentVersion", "resources"],
    "properties": {
        "$schema": {"pattern": r"/2019-04-01/deploymentTemplate\.json#$"},
        "contentVersion": {"pattern": r"^\d+\.\d+\.\d+\.\d+$"},
        "variables": _MEMBERS,
        "parameters": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {
                        "enum": [
                            "string",
                            "securestring",
                            "int",
                            "bool",
                            "object",
                            "secureObject",
                            "array",
                        ]
                    },
                    "defaultValue": {},
                    "allowedValues": {"type": "array", "minItems": 1},
                    "minLength": {"type": "integer"},
                    "maxLength": {"type": "integer"},
                    "minValue": {"type": "integer"},
                    "maxValue": {"type": "integer"},
                    "metadata": {
                        "type": "object",
                        "required": ["description"],
                        "properties": {"description": {"type": "string"}},
                    },
                },
            },
        },
        "resources": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "apiVersion", "name"],
                "properties": {
                    "condition": {"anyOf": [{"type": "boolean"}, _EXPRESSION]},
                    "type": {"pattern": r"^Microsoft\.\w+(/\w+)+$"},
                    "apiVersion": {"pattern": r"^\d{4}-\d\d-\d\d(-preview)?$"},
                    "scope": _EXPRESSION,
                    "name": {"type": "string"},
                    "location": {"type": "string"},
                    "identity": {"anyOf": [_MEMBERS, _EXPRESSION]},
                    "sku": _MEMBERS,
                    "properties": _MEMBERS,
                    "dependsOn": {"type": "array", "items": _EXPRESSION},
                },
            },
        },
        "outputs": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "value"],
                "properties": {
                    "type": {"enum": ["string", "int", "bool", "object", "array"]},
                    "value": {},
                    "metadata": {"type": "object"},
                },
            },
        },
    },
}

ROOT = AZURE.parents[1]
TEXTS = [
    *sorted(path for path in AZURE.iterdir() if path.is_file()),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "packaging/man").iterdir()),
    *(ROOT / "README.md", ROOT / "CHANGELOG.md"),
]

DEFAULTS = {"adminPublicKey": "ssh-ed25519 AAAA test"}
CHOICES = [
    {"keyStore": store, "permissionModel": permission, "identityKind": identity}
    for store in ("premiumVault", "managedHsm")
    for permission in ("role", "accessPolicy")
    for identity in ("systemAssigned", "userAssigned")
]


def deploy(**parameters: Json) -> Deployment:
    return Deployment(TEMPLATE, **DEFAULTS | parameters)


def test_the_bicep_parses() -> None:
    assert parse(BICEP)["globals"]["scope"]["value"] == "resourceGroup"


def test_broken_bicep_does_not_parse() -> None:
    with pytest.raises(lark.exceptions.UnexpectedInput):
        parse(BICEP.replace("resource keyVault", "resource keyVault keyVault", 1))


def test_the_parser_takes_no_literal_of_the_bicep_for_a_symbol() -> None:
    assert not ambiguous_literals(BICEP)


def test_the_arm_template_is_compiled_from_the_bicep() -> None:
    """After a change: `cd tests && ../.venv/bin/python -m support.bicep`."""
    assert compile_file(AZURE / "main.bicep") == TEMPLATE


@pytest.mark.parametrize(
    ("of", "instead"),
    [
        ("'premium' //", "'standard' //"),
        ("exportable: true", "exportable: false"),
        ("keys@2026-02-01", "keys@2023-07-01"),
        ("param keySize int = 3072", "param keySize int = 2048"),
        ("  scope: vaultKey\n", ""),
        ("  'VMGuestStateOnly'\n", ""),
        ("@secure()\n", ""),
        ("output principalId", "output identity"),
    ],
)
def test_a_difference_between_bicep_and_arm_is_found(of: str, instead: str) -> None:
    changed = AZURE / "main.bicep"
    assert BICEP.count(of) == 1
    assert compile_file(changed, BICEP.replace(of, instead)) != TEMPLATE


def test_the_arm_template_has_only_members_that_azure_knows() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(TEMPLATE)


def test_every_parameter_variable_and_function_is_known_and_used() -> None:
    called = [call for e in expressions(TEMPLATE) for call in calls(e)]
    for kind in ("parameters", "variables"):
        used = {literals[0] for name, literals in called if name == kind}
        assert used == TEMPLATE[kind].keys()
    known = {name.removeprefix("_do_") for name in dir(Deployment)} | {"if"}
    assert {name for name, _ in called} <= known


def test_dependencies_of_resources_have_no_cycle() -> None:
    deployment = deploy()
    waits = deployment.dependencies()
    assert {d for on in waits.values() for d in on} <= deployment.ids.keys()
    order = list(graphlib.TopologicalSorter(waits).static_order())
    kinds = [deployment.ids[resource] for resource in order]
    assert kinds.index(VM) < kinds.index(KEY)
    assert kinds.index(VM) < kinds.index(ROLE)
    assert kinds.index(KEY) < kinds.index(ROLE)


def key_vault_versions(text: str) -> list[str]:
    """Find the API versions of Microsoft.KeyVault that a text names."""
    named = r"Microsoft\.KeyVault/(?:(?!Microsoft\.).){0,200}?(\d{4}-\d\d-\d\d)"
    return re.findall(named, text, re.DOTALL)


@pytest.mark.parametrize("name", ["main.bicep", "main.json"])
def test_key_vault_versions_of_the_template_are_found(name: str) -> None:
    assert key_vault_versions((AZURE / name).read_text()) == ["2026-02-01"] * 4


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_no_retired_version_of_key_vault_is_named(path: Path) -> None:
    """Versions before 2026-02-01 retire on 2027-02-27.

    https://learn.microsoft.com/azure/key-vault/general/access-control-default
    """
    versions = key_vault_versions(path.read_text())
    assert [version for version in versions if version < "2026-02-01"] == []


@pytest.mark.parametrize("permission", ["role", "accessPolicy"])
def test_the_vaults_access_model_does_not_depend_on_the_api_version(
    permission: str,
) -> None:
    vault = deploy(permissionModel=permission).properties(VAULT)
    assert vault["enableRbacAuthorization"] is (permission == "role")


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_each_choice_deploys_its_resources_only(
    choice: dict[str, str],
) -> None:
    kinds = {VM, *NETWORK}
    if choice["keyStore"] == "managedHsm":
        kinds.add(HSM)
    else:
        by_role = choice["permissionModel"] == "role"
        kinds |= {VAULT, KEY, ROLE if by_role else POLICY}
    if choice["identityKind"] == "userAssigned":
        kinds.add(IDENTITY)
    assert deploy(**choice).resources.keys() == kinds


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"keyStore": "standardVault"}, "keyStore: not allowed"),
        ({"keySize": 1024}, "keySize: not allowed"),
        ({"pinToVm": "no"}, "pinToVm: not allowed"),
        ({"retentionDays": 6}, "retentionDays: must be"),
        ({"keyStoreName": "x" * 25}, "keyStoreName: must be"),
        ({"vmsize": "Standard_DC2as_v5"}, "no such parameters"),
        ({"location": "nowhere"}, "no property `nowhere`"),
    ],
)
def test_invalid_parameters_are_refused(parameters: Json, why: str) -> None:
    with pytest.raises(DeploymentError, match=re.escape(why)):
        deploy(**parameters)


def test_the_vault_keeps_keys_in_hsms_and_cannot_be_purged() -> None:
    vault = deploy().properties(VAULT)
    assert vault["sku"] == {"family": "A", "name": "premium"}
    assert vault["enablePurgeProtection"] is True
    assert vault["enableRbacAuthorization"] is True
    assert vault["tenantId"] == TENANT_ID


def test_the_hsm_has_administrators_and_cannot_be_purged() -> None:
    deployment = deploy(keyStore="managedHsm", hsmAdministrators=["who"])
    assert deployment.resources[HSM]["sku"] == {"family": "B", "name": "Standard_B1"}
    assert deployment.properties(HSM)["enablePurgeProtection"] is True
    assert deployment.properties(HSM)["initialAdminObjectIds"] == ["who"]


@pytest.mark.parametrize(
    ("kind", "principal"),
    [("systemAssigned", VM_PRINCIPAL), ("userAssigned", USER_PRINCIPAL)],
)
def test_the_identity_has_the_release_role_on_the_key_only(
    kind: str, principal: str
) -> None:
    deployment = deploy(identityKind=kind, keyStoreName="store")
    role = deployment.resources[ROLE]
    assert role["scope"].endswith("/vaults/store/keys/db")
    assert role["scope"] in deployment.ids
    assert role["properties"]["principalId"] == principal
    assert role["properties"]["principalType"] == "ServicePrincipal"
    assert role["properties"]["roleDefinitionId"].endswith(
        "/roleDefinitions/08bbd89e-9f13-488c-ac41-acfcb10c90ab"
    )
    assert deployment.outputs["principalId"] == principal


@pytest.mark.parametrize(
    ("kind", "principal"),
    [("systemAssigned", VM_PRINCIPAL), ("userAssigned", USER_PRINCIPAL)],
)
def test_the_access_policy_permits_the_identity_release_only(
    kind: str, principal: str
) -> None:
    deployment = deploy(permissionModel="accessPolicy", identityKind=kind)
    assert deployment.properties(VAULT)["enableRbacAuthorization"] is False
    assert deployment.properties(POLICY)["accessPolicies"] == [
        {
            "tenantId": TENANT_ID,
            "objectId": principal,
            "permissions": {"keys": ["release"]},
        }
    ]


def test_the_vm_is_a_confidential_vm() -> None:
    vm = deploy().properties(VM)
    assert vm["securityProfile"] == {
        "securityType": "ConfidentialVM",
        "uefiSettings": {"secureBootEnabled": True, "vTpmEnabled": True},
    }
    disk = vm["storageProfile"]["osDisk"]["managedDisk"]
    assert disk["securityProfile"] == {"securityEncryptionType": "DiskWithVMGuestState"}


def test_the_vm_has_the_chosen_identity() -> None:
    own = deploy().resources[VM]["identity"]
    assert own == {"type": "SystemAssigned"}
    deployment = deploy(identityKind="userAssigned")
    identity = deployment.resources[VM]["identity"]
    assert identity["type"] == "UserAssigned"
    (named,) = identity["userAssignedIdentities"]
    assert deployment.ids[named] == IDENTITY


def test_no_connection_is_admitted_without_ssh_source() -> None:
    group = "Microsoft.Network/networkSecurityGroups"
    assert deploy().properties(group)["securityRules"] == []
    (rule,) = deploy(sshSource="203.0.113.7/32").properties(group)["securityRules"]
    assert rule["properties"]["sourceAddressPrefix"] == "203.0.113.7/32"
    assert rule["properties"]["destinationPortRange"] == "22"
    assert rule["properties"]["access"] == "Allow"


def test_the_vms_subnet_has_the_rules_and_its_address_is_for_outgoing_connections() -> (
    None
):
    deployment = deploy()
    network = deployment.resources["Microsoft.Network/virtualNetworks"]
    (subnet,) = network["properties"]["subnets"]
    group = subnet["properties"]["networkSecurityGroup"]["id"]
    assert deployment.ids[group] == "Microsoft.Network/networkSecurityGroups"
    interface = deployment.properties("Microsoft.Network/networkInterfaces")
    (configuration,) = interface["ipConfigurations"]
    address = configuration["properties"]["publicIPAddress"]["id"]
    assert deployment.ids[address] == "Microsoft.Network/publicIPAddresses"
    network_id, _, name = configuration["properties"]["subnet"]["id"].rpartition(
        "/subnets/"
    )
    assert deployment.ids[network_id] == "Microsoft.Network/virtualNetworks"
    assert name == subnet["name"]


def conditions_of(deployment: Deployment) -> Json:
    """Return the claims of the policy output and their values."""
    (authority,) = json.loads(deployment.outputs["releasePolicy"])["anyOf"]
    return {c["claim"]: c["equals"] for c in authority["allOf"]}


@pytest.mark.parametrize("store", ["premiumVault", "managedHsm"])
def test_the_policy_pins_the_vm_by_its_id_in_upper_case(store: str) -> None:
    conditions = conditions_of(deploy(keyStore=store))
    assert conditions["x-ms-azurevm-vmid"] == VM_ID
    assert VM_ID.upper() == VM_ID


@pytest.mark.parametrize("store", ["premiumVault", "managedHsm"])
def test_without_the_pin_the_policy_has_all_claims_except_the_vms_id(
    store: str,
) -> None:
    pinned = conditions_of(deploy(keyStore=store))
    del pinned["x-ms-azurevm-vmid"]
    assert conditions_of(deploy(keyStore=store, pinToVm=False)) == pinned


def test_regions_have_the_providers_that_the_agent_knows() -> None:
    table = json.loads((AZURE / "attestation-regions.json").read_text())
    assert len(table) > 50
    for region, code in table.items():
        told = f"https://shared{code}.{code}.attest.azure.net"
        assert shared_endpoint(region) == told
    for location in ("West Europe", "westeurope"):
        policy = json.loads(deploy(location=location).outputs["releasePolicy"])
        assert policy["anyOf"][0]["authority"] == shared_endpoint(location)


def test_a_region_without_shared_provider_accepts_another_provider() -> None:
    own = "https://mine.weu.attest.azure.net"
    outputs = deploy(location="nowhere", attestationAuthority=own).outputs
    assert json.loads(outputs["releasePolicy"])["anyOf"][0]["authority"] == own
