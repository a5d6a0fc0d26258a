"""Reading the configuration file, for every command that needs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from skragent.config import (
    MAX_CONFIG_BYTES,
    Config,
    examine_config,
    parse_config,
    too_long,
)
from skragent.errors import ConfigError

if TYPE_CHECKING:
    import argparse

DEFAULT_CONFIG: Final = "/etc/skragent/skragent.toml"


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help=f"the configuration file (default: {DEFAULT_CONFIG})",
    )


def load_config(path: str) -> Config:
    """Read and judge a configuration file.

    Raises:
        ConfigError: config.unreadable, or what `parse_config` says.
    """
    return parse_config(read_config(path))


def examine_file(path: str) -> tuple[Config, list[str]]:
    """Read a configuration file as far as it can be, and find what is wrong with it.

    Raises:
        ConfigError: config.unreadable, or it is no TOML at all.
    """
    return examine_config(read_config(path))


def _open(path: str, flags: int) -> int:
    """Open a file, and do not wait for somebody to write into a pipe."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def read_config(path: str) -> str:
    """Read a configuration file's text.

    Raises:
        ConfigError: config.unreadable, config.syntax (not UTF-8), or it is too long.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            [f"{path}: {error.strerror or error}"],
            code="config.unreadable",
            hint="Is that the file, and may you read it?",
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:  # what was read of it is not what was meant
        raise too_long()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8"], code="config.syntax") from error
