"""Any response of a TPM gives a value or an AgentError."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skragent.errors import AgentError, TpmError
from skragent.evidence.nv import NvIndices
from skragent.evidence.quote import QUOTED_PCRS
from skragent.evidence.tpm import Vtpm, WrappingKey

SCRIPT = Path(__file__).parents[1] / "support" / "hostile_tpm.py"
PCRS = tuple(bytes(32) for _ in QUOTED_PCRS)

CALLS: list[Callable[[Vtpm], object]] = [
    lambda tpm: tpm.read_hcl_report(),
    lambda tpm: tpm.read_ak_certificate(),
    lambda tpm: tpm.read_ak_public(),
    lambda tpm: tpm.read_pcrs(),
    lambda tpm: tpm.owns_ak_certificate(),
    lambda tpm: tpm.create_wrapping_key(PCRS, bytes(256)),
    lambda tpm: tpm.quote(),
    lambda tpm: tpm.read_ak_index(),
    lambda tpm: tpm.write_ak_certificate(b"\x30\x00", has_copy=True),
    lambda tpm: tpm.decrypt(WrappingKey(b"", 1, 1, 5), bytes(256), "rsaes"),
    lambda tpm: tpm.certify(WrappingKey(b"", 1, 1, 5)),
]


def answer(parameters: bytes, *, rc: int = 0, size: int | None = None) -> str:
    body = rc.to_bytes(4, "big") + parameters
    size = 6 + len(body) if size is None else size
    return (b"\x80\x01" + size.to_bytes(4, "big") + body).hex()


def garbage() -> list[str]:
    """Bytes that look random and are the same each time."""
    return [
        answer(hashlib.shake_256(bytes([number])).digest(size))
        for number, size in enumerate((1, 2, 3, 4, 7, 10, 16, 64, 100, 300, 1000))
    ]


# Not here: answers of more than 4096 bytes, at which libtss2-tcti-cmd itself aborts
# (observed with tpm2-tss 3.2). The releaser's end is an error of ours then, too.
CORPUS = [
    "",
    "80",
    "8001",
    "00" * 10,
    "ff" * 10,
    answer(b""),
    answer(b"\0" * 4),
    answer(b"\xff" * 64),
    answer(b"\0" * 2000),
    answer(b"", size=9),
    answer(b"", size=0),
    answer(b"\x00\x10" + b"\x01" * 16),
    answer(b"\xff\xff" + b"\x01" * 16),
    answer(b"", rc=0xFFFFFFFF),
    answer(b"", rc=0x8000001),
    answer(b"", rc=0x98E),
    *garbage(),
]


def tcti(directory: Path, script: dict[str, str]) -> str:
    path = directory / "script.json"
    path.write_text(json.dumps(script))
    return f"cmd:{sys.executable} -I {SCRIPT} {path}"


def judge(call: Callable[[Vtpm], object], where: str) -> None:
    """Require a value, which other code judges, or an error of ours."""
    codes = []
    try:
        with Vtpm(where) as tpm:
            call(tpm)
    except AgentError as error:
        codes.append(error.code)
    assert all(code.startswith("evidence.") or code == "unwrap" for code in codes)


@pytest.mark.parametrize("said", CORPUS)
def test_garbage_as_the_answer_of_everything(tmp_path: Path, said: str) -> None:
    for call in CALLS:
        judge(call, tcti(tmp_path, {"*": said}))


class Raising:
    """Stands for an open ESAPI whose every method raises this."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., object]:
        def fail(*_: object, **__: object) -> object:
            raise self._error

        return fail


@pytest.mark.parametrize(
    "error",
    [
        TypeError("expected data to be TPM2B"),
        ValueError("unknown algorithm"),
        KeyError(5),
        NotImplementedError(),
        AttributeError("sig"),
        OverflowError(),
        RuntimeError("no such enum"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_an_exception_of_the_library_leaves_as_an_error_of_the_tpm(
    call: Callable[[Vtpm], object], error: Exception
) -> None:
    tpm = Vtpm("nowhere")
    tpm._esys = Raising(error)
    tpm._nv = NvIndices(tpm._esys)
    with pytest.raises(TpmError) as caught:
        call(tpm)
    assert caught.value.code == "evidence.tpm"
    assert type(error).__name__ in caught.value.message
    tpm.__exit__(None, None, None)  # there is nothing that a caller could do about it


@pytest.mark.parametrize("name", ["swtpm:path=\udcff", "nonsense:\ud800"])
def test_a_tcti_that_cannot_be_encoded_is_unreachable(name: str) -> None:
    with pytest.raises(TpmError) as caught, Vtpm(name):
        pass
    assert caught.value.code == "evidence.tpm.unreachable"
