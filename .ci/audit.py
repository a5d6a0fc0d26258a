"""Compare the locked libraries of the packages with the known vulnerabilities.

`make audit` runs this with pip-audit, which asks PyPI. Exit status: 1 if a locked
version has a known vulnerability. Libraries that the service does not answer for, as
without a network, are named and do not fail the audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 300
# The lock is whole, so pip resolves nothing.
_OPTIONS = ("--disable-pip", "--require-hashes", "--no-deps", "--format=json")


def main() -> int:
    """Audit each lock; return the exit code."""
    vulnerable: set[str] = set()
    unknown: set[str] = set()
    audited = 0
    for lock in sorted((ROOT / "packaging").glob("*.lock")):
        if "==" not in lock.read_text():
            continue
        command = [sys.executable, "-m", "pip_audit", *_OPTIONS, "-r", str(lock)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        try:
            libraries = json.loads(done.stdout)["dependencies"]
        except ValueError:
            print(f"audit: {lock.name}: pip-audit failed: {done.stderr[-500:]}")
            return 1
        for library in libraries:
            name = f"{library['name']} {library.get('version', '')}".strip()
            if "skip_reason" in library:
                unknown.add(name)
                continue
            audited += 1
            vulnerable |= {f"{name}: {found['id']}" for found in library["vulns"]}
    for line in sorted(vulnerable):
        print(f"audit: {line}")
    if unknown:
        print(f"audit: no answer about {len(unknown)} libraries (no network?)")
    print(f"audit: {audited} compared, {len(vulnerable)} vulnerabilities")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
