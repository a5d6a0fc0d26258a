"""The releaser's input and output: bounded, strict, and without secrets."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from skragent.errors import Disposition, ReleaseDeniedError
from skragent.job import (
    MAX_JOB_BYTES,
    MAX_KEYS,
    MAX_RESULT_BYTES,
    PROTOCOL,
    FailedKey,
    Failure,
    Result,
    arena_bytes,
)
from skragent.releaser.job_io import (
    ResultWriter,
    clean_environment,
    describe_failure,
    read_job,
    report_crash,
)
from skragent.releaser.stopwatch import Stopwatch

if TYPE_CHECKING:
    from pathlib import Path


def make_job(**changes: object) -> dict[str, Any]:
    key = {"alias": "k", "vault": "https://v.vault.azure.net", "name": "k"}
    return {
        "protocol": PROTOCOL,
        "now": 1767225600.0,
        "timeout_seconds": 10,
        "keys": [key],
        "arena_fd": 3,
        "arena_bytes": arena_bytes(1),
        "tcti": "device:/dev/tpmrm0",
        "tcg_log": "",
        "imds_endpoint": "http://169.254.169.254",
        "amd_roots": "",
        "attestation_endpoint": "auto",
        "authority": "https://login.microsoftonline.com",
        "tls_roots": "",
        "release_roots": "",
    } | changes


def read(path: Path, data: bytes) -> Any:  # noqa: ANN401 - a Job, or nothing at all
    path = path / "job"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_job(fd)
    finally:
        os.close(fd)


def test_job_is_read(tmp_path: Path) -> None:
    job = read(tmp_path, json.dumps(make_job()).encode())
    assert job.keys[0].alias == "k"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        json.dumps(make_job(protocol=PROTOCOL + 1)).encode(),
        json.dumps(make_job(unknown=1)).encode(),
        json.dumps(make_job(keys=[])).encode(),
        json.dumps(make_job(arena_bytes=arena_bytes(1) - 1)).encode(),
        json.dumps(make_job()).encode() + b" " * MAX_JOB_BYTES,
        json.dumps(
            make_job(
                keys=make_job()["keys"] * (MAX_KEYS + 1),
                arena_bytes=arena_bytes(MAX_KEYS + 1),
            )
        ).encode(),
    ],
)
def test_malformed_job_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(tmp_path, data)


def test_each_part_of_a_result_is_a_line() -> None:
    parts = [Result(is_last=False), Result(timings={"total": 1.5})]
    reader, fd = os.pipe()
    writer = ResultWriter(fd)
    for part in parts:
        writer.write(part)
    with os.fdopen(reader, "rb") as file:
        lines = file.read().splitlines()
    assert [msgspec.json.decode(line, type=Result) for line in lines] == parts


def test_result_that_the_agent_would_not_read_is_not_written() -> None:
    failure = Failure(code="c", disposition="retry", message="m" * MAX_RESULT_BYTES)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="a result of"):
        ResultWriter(writer).write(Result(failure=failure))
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b""


def test_as_many_keys_as_a_job_may_have_can_all_fail() -> None:
    error = ReleaseDeniedError("m" * 5000, hint="h" * 5000)
    failed = FailedKey(alias="a" * 64, failure=describe_failure(error))
    encoded = msgspec.json.encode(Result(failed=(failed,) * MAX_KEYS))
    assert len(encoded) <= MAX_RESULT_BYTES


def test_failure_has_what_the_agent_needs() -> None:
    error = ReleaseDeniedError(
        "said no",
        code="release.unverified",
        disposition=Disposition.REATTEST,
        hint="wait",
        retry_after=3,
    )
    assert describe_failure(error) == Failure(
        code="release.unverified",
        disposition="reattest",
        message="said no",
        hint="wait",
        retry_after=3,
    )


def test_crash_is_reported_without_messages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        secret = "the-secret"
        try:
            int(secret)
        except ValueError as error:
            raise KeyError(secret) from error

    with pytest.raises(KeyError) as caught:
        fail()
    report_crash(caught.value)
    told = capsys.readouterr().err
    assert "builtins.ValueError" in told
    assert "builtins.KeyError" in told
    assert "test_releaser_job_io.py" in told
    assert "the-secret" not in told


def test_environment_agrees_with_the_job() -> None:
    environment = {
        "PATH": "/bin",
        "HTTPS_PROXY": "http://proxy",
        "IDENTITY_ENDPOINT": "x",
        "IDENTITY_HEADER": "x",
        "MSI_ENDPOINT": "x",
        "IMDS_ENDPOINT": "x",
        "AZURE_CLIENT_ID": "x",
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": "x",
        "azure_tenant_id": "x",
        "REQUESTS_CA_BUNDLE": "x",
        "SSL_CERT_FILE": "x",
        "NETRC": "x",
    }
    clean_environment(environment, "http://169.254.169.254/")
    assert environment == {"PATH": "/bin", "HTTPS_PROXY": "http://proxy"}


def test_other_identity_endpoint_is_handed_to_the_library() -> None:
    environment: dict[str, str] = {}
    clean_environment(environment, "http://127.0.0.1:8080/")
    assert environment == {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:8080"}


def test_of_steps_side_by_side_the_longest_counts() -> None:
    stopwatch = Stopwatch()
    with stopwatch.step("outer"), stopwatch.step("inner"):
        pass
    with stopwatch.step("inner"):
        pass
    timings = stopwatch.timings()
    assert set(timings) == {"outer", "inner", "total"}
    assert timings["total"] >= timings["outer"]


def test_a_crash_in_an_endless_recursion_is_reported_in_a_few_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def recurse() -> None:
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    report_crash(caught.value)
    told = capsys.readouterr().err
    assert len(told.splitlines()) < 50
    assert told.endswith("builtins.RecursionError\n")
    assert "in recurse" in told
