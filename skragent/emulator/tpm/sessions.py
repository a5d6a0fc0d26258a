"""Track HMAC sessions, so that the emulator can answer a command within a session.

An unsalted, unbound session with an entity whose authValue is empty has an empty HMAC
key (TPM 2.0 Part 1, "Session Key Creation"). Any observer of the nonces can compute
its HMACs. This lets the emulator answer NV_Read of an index that swtpm cannot hold:
swtpm authorizes a read of a small index in its place, which updates the session's
nonces, and the emulator computes the HMACs of the client's command and response.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skragent.emulator.tpm.messages import Authorization, Command, Response

_SE_HMAC: Final = 0
_MAX_SESSIONS: Final = 64  # TPM_PT_ACTIVE_SESSIONS_MAX of swtpm


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session with an empty key: its hash algorithm and the TPM's last nonce."""

    algorithm: str
    nonce_tpm: bytes


class SessionTable:
    """The nonces of the sessions in which the emulator can answer."""

    def __init__(self) -> None:
        self._sessions: dict[int, OpenSession] = {}

    def clear(self) -> None:
        """Remove all sessions, as a TPM reset does."""
        self._sessions.clear()

    def find(self, handle: int) -> OpenSession | None:
        """Return a session; None if the emulator cannot answer within it."""
        return self._sessions.get(handle)

    def note(self, command: Command, response: Response) -> None:
        """Update the sessions after a command that swtpm ran."""
        if response.rc != tpm.RC_SUCCESS:
            return  # a failed command does not change nonces
        if command.code == tpm.CC_START_AUTH_SESSION and response.handle is not None:
            self._note_start(command, response.handle, response.parameters)
        for sent, received in zip(
            command.authorizations, response.authorizations, strict=False
        ):
            session = self._sessions.pop(sent.handle, None)
            if session and received.attributes & tpm.SESSION_CONTINUE:
                self._sessions[sent.handle] = replace(session, nonce_tpm=received.nonce)

    def _note_start(self, command: Command, handle: int, parameters: bytes) -> None:
        self._sessions.pop(handle, None)
        reader = tpm.Reader(command.parameters)
        reader.sized()  # nonceCaller
        reader.sized()  # encryptedSalt
        kind = reader.number(1)
        algorithm = tpm.HASHES.get(int.from_bytes(reader.rest()[-2:]))
        is_open = command.handles == (tpm.RH_NULL, tpm.RH_NULL) and kind == _SE_HMAC
        if is_open and algorithm and len(self._sessions) < _MAX_SESSIONS:
            nonce = tpm.Reader(parameters).sized()
            self._sessions[handle] = OpenSession(algorithm, nonce)


def sign_command(
    session: OpenSession,
    authorization: Authorization,
    command: Command,
    names: Iterable[bytes],
) -> bytes:
    """Compute a command's HMAC with an empty key (Part 1, 19.6.5)."""
    code = struct.pack(">I", command.code)
    parts = code + b"".join(names) + command.parameters
    return _hmac(
        session.algorithm,
        hashlib.new(session.algorithm, parts).digest(),
        authorization.nonce + session.nonce_tpm,
        authorization.attributes,
    )


def sign_response(
    session: OpenSession, sent: Authorization, received: Authorization, response: bytes
) -> bytes:
    """Compute a response's HMAC; `response` is rc, command code and parameters."""
    return _hmac(
        session.algorithm,
        hashlib.new(session.algorithm, response).digest(),
        received.nonce + sent.nonce,
        received.attributes,
    )


def _hmac(algorithm: str, digest: bytes, nonces: bytes, attributes: int) -> bytes:
    return hmac.digest(b"", digest + nonces + bytes([attributes]), algorithm)
