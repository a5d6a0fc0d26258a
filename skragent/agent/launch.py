"""Puts a job together and starts a releaser on it: secret memory, job, process.

No event loop here: the agent launches its first releaser before it loads one, and
the two get ready side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from skragent.agent.child import RELEASER_COMMAND, Child, spawn
from skragent.agent.jobs import build_job, releaser_environment
from skragent.config import VtpmConfig
from skragent.files import open_regular
from skragent.job import UNIQUE_BYTES, arena_bytes, unique_offset
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.agent.clock import Clock
    from skragent.agent.tokens import HeldToken
    from skragent.config import Config
    from skragent.job import KeyRequest, Purpose
    from skragent.secretmem import Arena

# The unit's LoadCredential=tcglog:…, and what its SetCredential= puts in the place of
# a log that the machine does not have.
_TCG_LOG_CREDENTIAL: Final = "tcglog"
_NO_TCG_LOG: Final = b"none"


@dataclass(frozen=True, slots=True)
class Launch:
    """A releaser under way, and what it was given."""

    child: Child
    arena: Arena
    aliases: frozenset[str]
    began_at: float  # boot time
    purpose: Purpose = "release"
    token: HeldToken | None = None  # that it was given


class Launcher:
    """Starts releasers for one configuration.

    Args:
        config: the world as the administrator describes it.
        clock: for the job's `now`.
        environment: ours, of which the releaser gets next to nothing.
        command: the releaser; tests give a substitute.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        environment: Mapping[str, str],
        command: Sequence[str] = RELEASER_COMMAND,
    ) -> None:
        self._config = config
        self._clock = clock
        self._command = tuple(command)
        self._environment = releaser_environment(environment)
        self._credentials = environment.get("CREDENTIALS_DIRECTORY", "")
        # StateDirectory= may name several: systemd.exec(5). The unit's own is first.
        self._state_directory, _, _ = environment.get("STATE_DIRECTORY", "").partition(
            ":"
        )

    def configure(self, config: Config) -> None:
        """Have the next releasers work by another configuration."""
        self._config = config

    def launch(
        self,
        keys: Sequence[KeyRequest],
        purpose: Purpose = "release",
        *,
        ak_query_id: str = "",
        token: HeldToken | None = None,
    ) -> Launch:
        """Start a releaser for these keys; for a renewal there are none.

        Raises:
            SecretMemoryError: there is no memory for the keys.
            ReleaserError: releaser.spawn.
        """
        began_at = self._clock.boottime()
        arena = create_arena(arena_bytes(len(keys)))
        if token is not None:
            arena.view(unique_offset(len(keys)), UNIQUE_BYTES)[:] = token.unique
        try:
            job = build_job(
                self._config,
                keys,
                now=self._clock.now(),
                arena_fd=arena.fd,
                arena_bytes=arena.size,
                tcg_log=find_tcg_log(self._config.vtpm.tcg_log, self._credentials),
                purpose=purpose,
                ak_query_id=ak_query_id,
                token=token.raw if token is not None else "",
                state_directory=self._state_directory,
            )
            child = spawn(
                self._command,
                msgspec.json.encode(job),
                arena_fd=arena.fd,
                environment=self._environment,
            )
        finally:
            # Through an open descriptor root could map the memory.
            arena.close_fd()
        aliases = frozenset(key.alias for key in keys)
        return Launch(child, arena, aliases, began_at, purpose, token)


def find_tcg_log(configured: str, directory: str) -> str:
    """Choose where the TCG log is read: systemd's credential, if there is one.

    The kernel's own file is root's; a path that was configured is taken as it is.

    Args:
        configured: the setting.
        directory: where systemd put our credentials; empty: it did not.
    """
    if not directory or configured != VtpmConfig().tcg_log:
        return configured
    credential = f"{directory}/{_TCG_LOG_CREDENTIAL}"
    try:
        with open_regular(credential) as file:
            is_there = file.read(len(_NO_TCG_LOG) + 1).strip() != _NO_TCG_LOG
    except OSError:
        return configured
    return credential if is_there else ""
