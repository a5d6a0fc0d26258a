"""The bill of materials of one package: CycloneDX 1.6, the same for the same input."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from email.parser import HeaderParser
from typing import TYPE_CHECKING, Any, Final

from common import normal

if TYPE_CHECKING:
    from email.message import Message
    from pathlib import Path

# Older metadata has free text as its licence: these are SPDX identifiers.
_SPDX: Final = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MPL-2.0"}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


def vendored(library: Path) -> list[Message]:
    """Read the metadata of every distribution in a folder, by name."""
    parse = HeaderParser().parsestr
    files = library.glob("*.dist-info/METADATA")
    found = [parse(file.read_text(encoding="utf-8")) for file in files]
    return sorted(found, key=lambda metadata: normal(metadata["Name"]))


def license_of(metadata: Message) -> str:
    """Return the licence of a distribution: an SPDX expression if it has one."""
    for member in ("License-Expression", "License"):
        text = str(metadata.get(member) or "").strip()
        if text and "\n" not in text:
            return text
    kinds = [str(c) for c in metadata.get_all("Classifier") or []]
    names = [c.rsplit(" :: ", 1)[1] for c in kinds if c.startswith("License ::")]
    return " AND ".join(names) or "unknown"


def write_sbom(
    library: Path, dist: Path, *, name: str, version: str, date: int
) -> bytes:
    """Return the bill of materials of the libraries in a package.

    Args:
        library: the folder of the unpacked distributions.
        dist: the folder of the downloaded files.
        name: the name of the package.
        version: the version of the package.
        date: the date of the build, in seconds since 1970.
    """
    metadata = vendored(library)
    components = [_component(entry, dist) for entry in metadata]
    references = {normal(e["Name"]): _purl(e) for e in metadata}
    this = f"pkg:deb/debian/{name}@{version}"
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(date, UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": this,
                "name": name,
                "version": version,
                "purl": this,
                "licenses": [{"expression": "MIT"}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": this, "dependsOn": sorted(references.values())},
            *({"ref": _purl(e), "dependsOn": _needs(e, references)} for e in metadata),
        ],
    }
    content = json.dumps(document, sort_keys=True).encode()
    number = uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4)
    document["serialNumber"] = f"urn:uuid:{number}"
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _component(metadata: Message, dist: Path) -> dict[str, Any]:
    text = license_of(metadata)
    spdx = metadata.get("License-Expression") or text in _SPDX
    return {
        "type": "library",
        "bom-ref": _purl(metadata),
        "name": metadata["Name"],
        "version": metadata["Version"],
        "description": str(metadata.get("Summary") or ""),
        "purl": _purl(metadata),
        "licenses": [{"expression": text} if spdx else {"license": {"name": text}}],
        "hashes": [{"alg": "SHA-256", "content": _hash(metadata, dist)}],
    }


def _purl(metadata: Message) -> str:
    return f"pkg:pypi/{normal(metadata['Name'])}@{metadata['Version']}"


def _hash(metadata: Message, dist: Path) -> str:
    wanted = normal(f"{metadata['Name']}-{metadata['Version']}")
    for file in dist.iterdir():
        if normal(file.name).startswith(f"{wanted}-"):
            return hashlib.sha256(file.read_bytes()).hexdigest()
        if normal(file.name) == f"{wanted}-tar-gz":
            return hashlib.sha256(file.read_bytes()).hexdigest()
    raise FileNotFoundError(wanted)


def _needs(metadata: Message, references: dict[str, str]) -> list[str]:
    """List the dependencies that are in the package."""
    names = set()
    for text in metadata.get_all("Requires-Dist") or []:
        found = _NAME.match(str(text))
        if found and "extra ==" not in str(text):
            names.add(normal(found.group()))
    return sorted(references[name] for name in names if name in references)
