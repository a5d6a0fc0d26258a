"""How the configuration file is read: what editors of other systems write, too."""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING

import pytest

from skragent import exit_codes
from skragent.cli.config_file import load_config, read_config
from skragent.cli.main import main
from skragent.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = f"""
[keys.disk]
vault = "https://v.vault.azure.net"
allow = [
  {{ user = {os.getuid()} }},
]
""".encode()
WITH_CRLF = TEXT.replace(b"\n", b"\r\n")


other_editors = pytest.mark.parametrize(
    "content",
    [codecs.BOM_UTF8 + TEXT, WITH_CRLF, codecs.BOM_UTF8 + WITH_CRLF],
    ids=["byte order mark", "CRLF", "both"],
)


@other_editors
def test_a_file_of_another_systems_editor_is_the_same_configuration(
    tmp_path: Path, content: bytes
) -> None:
    path, usual = tmp_path / "skragent.toml", tmp_path / "usual.toml"
    path.write_bytes(content)
    usual.write_bytes(TEXT)
    assert load_config(str(path)) == load_config(str(usual))


@other_editors
def test_check_config_accepts_a_file_of_another_systems_editor(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "skragent.toml"
    path.write_bytes(content)
    assert main(["check-config", "--config", str(path)]) == exit_codes.OK


def test_a_byte_order_mark_is_skipped_once_only(tmp_path: Path) -> None:
    path = tmp_path / "skragent.toml"
    path.write_bytes(2 * codecs.BOM_UTF8 + TEXT)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert caught.value.code == "config.syntax"


def test_a_file_in_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "skragent.toml"
    path.write_bytes(TEXT.decode().encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(str(path))
