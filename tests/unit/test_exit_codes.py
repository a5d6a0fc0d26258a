from __future__ import annotations

import os

import pytest

from skragent import exit_codes
from skragent.errors import (
    AgentError,
    ConfigError,
    Disposition,
    ListenError,
    TransportError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(["x"]), os.EX_CONFIG),
        (
            AgentError("x", code="config.invalid", disposition=Disposition.FATAL),
            os.EX_CONFIG,
        ),
        (ListenError("x"), os.EX_OSERR),
        (AgentError("x"), os.EX_SOFTWARE),
        (TransportError("x", code="transport.dns"), os.EX_TEMPFAIL),
        (
            AgentError("x", code="evidence.not_a_cvm", disposition=Disposition.FATAL),
            os.EX_UNAVAILABLE,
        ),
        (AgentError("x", code="evidence.malformed"), os.EX_UNAVAILABLE),
        (AgentError("x", code="token.refused"), os.EX_NOPERM),
    ],
)
def test_each_error_has_its_exit_code(error: AgentError, code: int) -> None:
    assert exit_codes.exit_code_of(error) == code


def test_every_disposition_has_an_exit_code() -> None:
    for disposition in set(Disposition) - {Disposition.DENIED}:
        error = AgentError("x", code="x", disposition=disposition)
        assert exit_codes.exit_code_of(error) != exit_codes.OK
