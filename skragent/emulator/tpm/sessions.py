"""What the front knows of HMAC sessions, so that it can answer within one.

An unsalted, unbound session with an entity whose authValue is empty has an empty HMAC
key (TPM 2.0 Part 1, "Session Key Creation"): whoever saw the nonces can compute its
HMACs. So can the front, and that is what lets it answer NV_Read of an index that it
hosts itself: it makes the real TPM authorize a stand-in, which rolls the session's
nonces on, and then computes both sides' HMACs over what the client asked and gets.
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
    """A session whose key is empty: its hash and the TPM's last nonce."""

    algorithm: str
    nonce_tpm: bytes


class SessionLedger:
    """Follows the nonces of the sessions that the front could answer in."""

    def __init__(self) -> None:
        self._sessions: dict[int, OpenSession] = {}

    def clear(self) -> None:
        """Forget everything, as the TPM does at a reset."""
        self._sessions.clear()

    def find(self, handle: int) -> OpenSession | None:
        """Look up a session; None is one that the front cannot answer in."""
        return self._sessions.get(handle)

    def note(self, command: Command, response: Response) -> None:
        """Learn from a command that went through the TPM."""
        if response.rc != tpm.RC_SUCCESS:
            return  # a failed command rolls no nonces
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
    """Compute the HMAC that a command carries, for an empty key (Part 1, 19.6.5)."""
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
    """Compute the HMAC that a response carries; `response` is rc, code, parameters."""
    return _hmac(
        session.algorithm,
        hashlib.new(session.algorithm, response).digest(),
        received.nonce + sent.nonce,
        received.attributes,
    )


def _hmac(algorithm: str, digest: bytes, nonces: bytes, attributes: int) -> bytes:
    return hmac.digest(b"", digest + nonces + bytes([attributes]), algorithm)
