"""A module is started with the options of this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from skragent.interpreter import module_command

HOME = str(Path(__file__).resolve().parents[2])

# In a folder of its own, as the packages have it: what it imports is known to it alone.
_OF_A_PACKAGE = """
import sys
sys.path.append(sys.argv[1])
from skragent.interpreter import module_command
import json
print(json.dumps(module_command("skragent.errors_shown")))
"""
_MODULE = "import json, sys; print(json.dumps([__name__, sys.argv[1:], sys.path]))"


def test_in_an_environment_the_module_is_run_as_usual() -> None:
    command = module_command("skragent.releaser")
    assert command == (sys.executable, "-I", "-m", "skragent.releaser")


def test_without_site_the_folder_is_handed_on(tmp_path: Path) -> None:
    source = Path(HOME, "skragent/interpreter.py").read_text()
    package = tmp_path / "it's here" / "skragent"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text(source)
    (package / "errors_shown.py").write_text(_MODULE)
    told = subprocess.check_output(
        [sys.executable, "-IS", "-c", _OF_A_PACKAGE, str(package.parent)]
    )
    done = subprocess.check_output([*json.loads(told), "--an", "argument"], cwd="/")
    name, arguments, path = json.loads(done)
    assert name == "__main__"
    assert arguments == ["--an", "argument"]
    # The standard library comes first: none of ours can stand in for it.
    assert path[-1] == str(package.parent)
    assert not [entry for entry in path if "site-packages" in entry]
