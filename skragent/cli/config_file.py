"""Read the configuration file, for all commands."""

from __future__ import annotations

import codecs
import errno
from typing import TYPE_CHECKING, Final

from skragent.config import (
    MAX_CONFIG_BYTES,
    Config,
    examine_config,
    parse_config,
    too_long,
)
from skragent.errors import ConfigError
from skragent.files import read_regular

if TYPE_CHECKING:
    import argparse

DEFAULT_CONFIG: Final = "/etc/skragent/skragent.toml"

READ_HINT: Final = (
    "Give the path of a regular file that you may read, not a pipe such as `<(…)`."
)


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help=f"the configuration file (default: {DEFAULT_CONFIG})",
    )


def load_config(path: str) -> Config:
    """Read and parse a configuration file.

    Raises:
        ConfigError: config.unreadable, or an error of `parse_config`.
    """
    return parse_config(read_config(path))


def examine_file(path: str) -> tuple[Config, list[str]]:
    """Parse a configuration file as far as possible, and list its problems.

    Raises:
        ConfigError: config.unreadable, config.syntax, or the file is too long.
    """
    return examine_config(read_config(path))


def read_config(path: str) -> str:
    """Read a configuration file's text, without a byte order mark.

    Raises:
        ConfigError: config.unreadable, config.syntax (not UTF-8), or too long.
    """
    try:
        raw = read_regular(path, max_bytes=MAX_CONFIG_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise too_long() from error
        raise ConfigError(
            [f"{path}: {error.strerror or error}"],
            code="config.unreadable",
            hint=READ_HINT,
        ) from error
    try:
        # Editors on Windows write a byte order mark. The codec utf-8-sig is a module,
        # which a confined agent may not be able to import.
        return raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8"], code="config.syntax") from error
