"""A module is started with the options of this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from skragent.interpreter import module_command

HOME = str(Path(__file__).resolve().parents[2])

# A folder of its own, as in the packages: only this program imports from the folder.
_OF_A_PACKAGE = """
import sys
sys.path.append(sys.argv[1])
from skragent.interpreter import module_command
import json
print(json.dumps(module_command("skragent.errors_shown")))
"""
_MODULE = "import json, sys; print(json.dumps([__name__, sys.argv[1:], sys.path]))"


def test_in_a_virtual_environment_the_module_is_run_by_name() -> None:
    command = module_command("skragent.releaser")
    assert command == (sys.executable, "-I", "-m", "skragent.releaser")


def test_without_site_the_command_passes_the_folder(tmp_path: Path) -> None:
    source = Path(HOME, "skragent/interpreter.py").read_text()
    package = tmp_path / "it's here" / "skragent"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(source)
    (package / "errors_shown.py").write_text(_MODULE)
    command = subprocess.check_output(
        [sys.executable, "-IS", "-c", _OF_A_PACKAGE, str(package.parent)]
    )
    done = subprocess.check_output([*json.loads(command), "--an", "argument"], cwd="/")
    name, arguments, path = json.loads(done)
    assert name == "__main__"
    assert arguments == ["--an", "argument"]
    # The standard library comes first: no module of skragent replaces its modules.
    assert path[-1] == str(package.parent)
    assert not [entry for entry in path if "site-packages" in entry]
