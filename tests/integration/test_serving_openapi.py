"""The OpenAPI document is what the server does: schemathesis drives it from there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from support.deadlines import DEADLINE_SECONDS
from support.serving import ALIAS, VERSION, everybody_in, held_key, key_of, ring_with
from support.serving_server import RunningServer, serving
from support.unix_session import unix_session

from skragent.error_catalog import CODES
from skragent.job import Form
from skragent.serving import Limits
from skragent.serving.routes import COMMON_ERRORS, ROUTES, ErrorResponse

DOCUMENT = json.loads(
    resources.files("skragent.serving").joinpath("openapi.json").read_text()
)
# Names and versions that exist, among all that a generator can think of.
NAMES = [ALIAS, "sym", "later", "unknown"]
JWK = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}


def narrowed() -> dict[str, Any]:
    """Let a generator hit what is there often."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    parameters = document["components"]["parameters"]
    parameters["Name"]["schema"] = {"enum": NAMES}
    parameters["Version"]["schema"] = {"enum": [VERSION, "f" * 32]}
    return document


SCHEMA = schemathesis.openapi.from_dict(narrowed())


@SCHEMA.hook
def map_query(
    context: schemathesis.HookContext,  # noqa: ARG001 - a hook's
    query: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Wait for nothing: a wait that the document allows becomes 0."""
    wait = (query or {}).get("wait")
    if query and isinstance(wait, int | float) and 0 <= wait <= 300:
        return query | {"wait": 0}
    return query


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    forms: dict[Form, bytes] = {
        "jwk": json.dumps(JWK | {"d": "AQAB"}).encode(),
        "pem": b"-----BEGIN PRIVATE KEY-----\n",
        "der": b"0",
    }
    rsa = held_key(forms=forms)
    rsa = key_of(
        ALIAS, VERSION, dict(rsa.forms), json.dumps(JWK), "-----BEGIN PUBLIC KEY-----\n"
    )
    symmetric = held_key("sym", forms={"jwk": b'{"kty":"oct"}', "raw": b"k" * 32})
    symmetric = key_of("sym", VERSION, dict(symmetric.forms), "", "")
    ring = ring_with(rsa, symmetric, waiting=["later"])
    limits = Limits(requests_per_second_per_uid=1_000_000)
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name), ring, everybody_in(ring), limits) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def session(server: RunningServer) -> Iterator[requests.Session]:
    with unix_session(server.path) as session:
        yield session


@pytest.mark.filterwarnings("default")
@SCHEMA.parametrize()
@hypothesis.settings(max_examples=60)
def test_every_response_matches_the_document(
    case: schemathesis.Case[Any], session: requests.Session
) -> None:
    response = case.call_and_validate(
        base_url="http://localhost",
        session=session,
        timeout=DEADLINE_SECONDS,
        excluded_checks=[not_a_server_error],  # 503 is what a key that is awaited says
    )
    assert response.status_code != 500


def test_the_document_is_served(session: requests.Session) -> None:
    response = session.get("http://localhost/v1/openapi.json", timeout=DEADLINE_SECONDS)
    assert response.json() == DOCUMENT
    assert response.headers["Content-Type"] == "application/json"


def test_every_path_of_the_document_is_served(session: requests.Session) -> None:
    for path in DOCUMENT["paths"]:
        url = "http://localhost" + path.replace("{name}", ALIAS)
        assert session.get(url, timeout=DEADLINE_SECONDS).status_code == 200, path


def errors() -> Iterator[tuple[int, ErrorResponse]]:
    """Yield each error of the route table with its status."""
    yield from COMMON_ERRORS.items()
    for route in ROUTES:
        yield from route.errors.items()


def test_the_routes_have_every_error_code() -> None:
    described = {code for _, error in errors() for code in error.codes}
    served = set()
    for module in (
        "api",
        "admission",
        "listener",
        "negotiation",
        "http/connection",
        "http/request",
        "http/reader",
        "http/chunked",
    ):
        text = (resources.files("skragent.serving") / f"{module}.py").read_text()
        served |= {word.split('"')[0] for word in text.split('code="')[1:]}
    defaults = {"serve.denied", "serve.not_ready", "serve.bad_request"}
    assert served | defaults == described


def test_the_error_catalog_names_each_status_of_a_code() -> None:
    for status, error in errors():
        for code in error.codes:
            statuses = CODES[code].cause.partition(":")[0]
            assert code == "internal" or str(status) in statuses, code
