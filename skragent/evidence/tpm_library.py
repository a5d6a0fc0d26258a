"""The boundary to the library tpm2-pytss: every exception becomes a TpmError.

The library converts the TPM's responses. A response that it cannot convert raises
TypeError, ValueError, KeyError or NotImplementedError. So every command, and every use
of a response that may fail, is inside `library`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tpm2_pytss import TSS2_Exception

from skragent.errors import AgentError
from skragent.evidence import tpm_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def library(command: str) -> Iterator[None]:
    """Raise a TpmError of this command for every exception of tpm2-pytss."""
    try:
        yield
    except TSS2_Exception as error:
        raise tpm_errors.make_tpm_error(command, int(error.rc), str(error)) from error
    except (AgentError, MemoryError):
        raise
    except Exception as error:
        reason = describe_library_error(error)
        raise tpm_errors.make_library_error(command, reason) from error


def run(
    command: str,
    call: Callable[..., Any],
    *args: Any,  # noqa: ANN401 - the library has no types
    **options: Any,  # noqa: ANN401 - as above
) -> Any:  # noqa: ANN401 - as above
    """Run one command of the TPM; raise a TpmError if it fails."""
    with library(command):
        return call(*args, **options)


def describe_library_error(error: Exception) -> str:
    """Return the exception's type. Its text may quote the TPM's response."""
    return f"the TPM library raised {type(error).__name__}"
