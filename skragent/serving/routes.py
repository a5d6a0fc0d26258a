"""The resources of api.sock.

`packaging/generate_docs.py` writes openapi.json from ROUTES, so the table has every
parameter, header, document and error code of the interface. Each resource has the
methods GET and HEAD.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from skragent.job import ALIAS_PATTERN
from skragent.serving.documents import Health, KeyList, KeyProblem, Status
from skragent.serving.http.response import JSON, Problem
from skragent.serving.negotiation import MAX_WAIT_SECONDS, MEDIA_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS_PATH: Final = "/v1/keys"
KEY_PREFIX: Final = KEYS_PATH + "/"
PUBLIC_SUFFIX: Final = "/public"

# Retry-After for a key that is not held: at least the time of a cold start, at most
# the longest `?wait=`.
MIN_RETRY_SECONDS: Final = 1
MAX_RETRY_SECONDS: Final = 300


class Parameter(NamedTuple):
    """A parameter of a request. The schema comes from the type `kind`."""

    component: str  # the name in openapi.json
    name: str
    place: Literal["path", "query", "header"]
    kind: Any
    text: str


class Header(NamedTuple):
    """A header of a response. The schema comes from the type `kind`."""

    component: str
    name: str
    kind: Any
    text: str = ""


class Success(NamedTuple):
    """A response without an error: the type of the body for each media type."""

    text: str
    headers: tuple[Header, ...] = ()
    content: Mapping[str, Any] = MappingProxyType({})


class ErrorResponse(NamedTuple):
    """A response with a problem document, and the error codes that it can have."""

    text: str
    codes: tuple[str, ...]
    headers: tuple[Header, ...] = ()  # in addition to Cache-Control
    kind: type[Problem] = Problem
    component: str = ""  # empty: openapi.json has the response at the route


class Route(NamedTuple):
    """A resource of api.sock."""

    op: str  # in metrics and in the journal
    path: str
    operation_id: str
    summary: str
    responses: Mapping[int, Success]
    parameters: tuple[Parameter, ...] = ()
    errors: Mapping[int, ErrorResponse] = MappingProxyType(
        {}
    )  # in place of COMMON_ERRORS
    description: str = ""


class Jwk(msgspec.Struct):
    """A JSON Web Key: RFC 7517."""

    kty: Literal["RSA", "EC", "oct"]


_NAME: Final = Parameter(
    "Name",
    "name",
    "path",
    Annotated[str, Meta(pattern=f"^{ALIAS_PATTERN}$")],
    "The name of the key in the configuration.",
)
_VERSION: Final = Parameter(
    "Version",
    "version",
    "query",
    Annotated[str, Meta(pattern="^[0-9a-f]{32}$")],
    "Exactly this version (the vault's, 32 hexadecimal digits).",
)
_WAIT: Final = Parameter(
    "Wait",
    "wait",
    "query",
    Annotated[float, Meta(ge=0, le=int(MAX_WAIT_SECONDS))],
    "Seconds to wait for the key; with If-None-Match for a newer version or a changed"
    " status. A decimal number with at most six digits after the point. The response"
    " may be up to two seconds late.",
)
_IF_NONE_MATCH: Final = Parameter(
    "IfNoneMatch",
    "If-None-Match",
    "header",
    str,
    "The ETag that the caller has.",
)
_OF_KEYS: Final = (_NAME, _VERSION, _WAIT, _IF_NONE_MATCH)

NO_STORE: Final = Header("NoStore", "Cache-Control", Literal["no-store"])
_KEY_HEADERS: Final = (
    NO_STORE,
    Header("Version", "ETag", str, "The version of the key, in quotes."),
    Header("Vary", "Vary", Literal["Accept"]),
    Header("Age", "Age", Annotated[int, Meta(ge=0)], "Seconds since the release."),
    Header(
        "State",
        "Skragent-State",
        Literal["current", "stale"],
        "`stale`: the agent serves the key, and its refresh is overdue.",
    ),
    Header("ReleasedAt", "Skragent-Released-At", int, "Seconds since 1970 (UTC)."),
)
_STATUS_HEADERS: Final = (
    NO_STORE,
    Header("StatusTag", "ETag", str, "A digest of `state` and `keys`."),
)
_RETRY_AFTER: Final = Header(
    "RetryAfter",
    "Retry-After",
    Annotated[int, Meta(ge=MIN_RETRY_SECONDS, le=MAX_RETRY_SECONDS)],
    "Seconds to wait before the next request.",
)

_BINARY: Final = Annotated[str, Meta(extra_json_schema={"contentEncoding": "binary"})]
_PRIVATE_FORMS: Final = MappingProxyType(
    {
        MEDIA_TYPES["jwk"]: Jwk,
        JSON: Jwk,
        MEDIA_TYPES["pem"]: Annotated[
            str, Meta(pattern="^-----BEGIN PRIVATE KEY-----")
        ],
        MEDIA_TYPES["der"]: _BINARY,
        MEDIA_TYPES["raw"]: _BINARY,
    }
)
_PUBLIC_FORMS: Final = MappingProxyType(
    {
        MEDIA_TYPES["jwk"]: Jwk,
        JSON: Jwk,
        MEDIA_TYPES["pem"]: Annotated[str, Meta(pattern="^-----BEGIN PUBLIC KEY-----")],
    }
)

# Errors of every resource, unless its route has another one with the same status.
COMMON_ERRORS: Final[Mapping[int, ErrorResponse]] = MappingProxyType(
    {
        400: ErrorResponse(
            "The agent cannot parse the request.",
            ("serve.bad_request", "serve.body"),
            component="BadRequest",
        ),
        405: ErrorResponse(
            "The method is neither GET nor HEAD.",
            ("serve.method",),
            (Header("Allow", "Allow", Literal["GET, HEAD"]),),
            component="MethodNotAllowed",
        ),
        408: ErrorResponse(
            "The request was not complete in time.",
            ("serve.timeout",),
            component="Timeout",
        ),
        413: ErrorResponse(
            "The body is too large, or the framing of a chunked body is.",
            ("serve.body",),
            component="ContentTooLarge",
        ),
        417: ErrorResponse(
            "An expectation other than 100-continue.",
            ("serve.body",),
            component="ExpectationFailed",
        ),
        429: ErrorResponse(
            "The user sent too many requests within a second.",
            ("serve.rate",),
            (_RETRY_AFTER,),
            component="TooManyRequests",
        ),
        431: ErrorResponse(
            "The head is longer than 8192 bytes, or has too many headers.",
            ("serve.head_too_large",),
            component="HeadTooLarge",
        ),
        500: ErrorResponse("A bug of the agent.", ("internal",), component="Internal"),
        501: ErrorResponse(
            "A transfer coding other than chunked.",
            ("serve.body",),
            component="OtherCoding",
        ),
        503: ErrorResponse(
            "Too many connections, or requests in flight.",
            ("serve.connections", "serve.busy"),
            (_RETRY_AFTER,),
            component="Busy",
        ),
        505: ErrorResponse(
            "Neither HTTP/1.0 nor HTTP/1.1.",
            ("serve.http_version",),
            component="OtherVersion",
        ),
    }
)
_KEY_ERRORS: Final[Mapping[int, ErrorResponse]] = MappingProxyType(
    {
        404: ErrorResponse(
            "The key does not exist, or the caller may not use it: the response is the"
            " same. Or the agent does not hold this version.",
            ("serve.denied", "serve.version"),
        ),
        406: ErrorResponse(
            "The key has no form of Accept; `formats` lists its forms.",
            ("serve.not_acceptable",),
            kind=KeyProblem,
        ),
        503: ErrorResponse(
            "The agent does not hold the key (yet): `state` and `last_failure` have"
            " the reason. Or too many requests wait.",
            ("serve.not_ready", "serve.busy", "serve.connections"),
            (_RETRY_AFTER,),
            kind=KeyProblem,
        ),
    }
)
_SAME_VERSION: Final = Success(
    "The caller has this version (If-None-Match).", _KEY_HEADERS
)

_KEY: Final = Route(
    "get",
    KEY_PREFIX + "{name}",
    "getKey",
    "One key: the private half, or the bytes of a symmetric key.",
    {
        200: Success(
            "The key, in the form of Accept: a JWK (the default), PEM or DER (PKCS #8),"
            " or the raw bytes of an oct key.",
            _KEY_HEADERS,
            _PRIVATE_FORMS,
        ),
        304: _SAME_VERSION,
    },
    _OF_KEYS,
    _KEY_ERRORS,
)
_PUBLIC_KEY: Final = Route(
    "public",
    KEY_PREFIX + "{name}" + PUBLIC_SUFFIX,
    "getPublicKey",
    "The public half of a key.",
    {
        200: Success(
            "The public key: a JWK (the default), or PEM (SubjectPublicKeyInfo).",
            _KEY_HEADERS,
            _PUBLIC_FORMS,
        ),
        304: _SAME_VERSION,
    },
    _OF_KEYS,
    {
        **_KEY_ERRORS,
        404: ErrorResponse(
            "The key does not exist, or the caller may not use it: the response is the"
            " same. Or the agent does not hold this version, or the key is symmetric"
            " and has no public half.",
            ("serve.denied", "serve.version", "serve.not_found"),
        ),
    },
)

ROUTES: Final = (
    Route(
        "list",
        KEYS_PATH,
        "listKeys",
        "The keys that the caller may use.",
        {
            200: Success(
                "The list; empty if no rule matches the caller.",
                (NO_STORE,),
                {JSON: KeyList},
            )
        },
    ),
    _KEY,
    _PUBLIC_KEY,
    Route(
        "status",
        "/v1/status",
        "getStatus",
        "The keys that the caller may use, and the identity of the caller.",
        {
            200: Success("The status.", _STATUS_HEADERS, {JSON: Status}),
            304: Success("The status has not changed.", _STATUS_HEADERS),
        },
        (_WAIT, _IF_NONE_MATCH),
        description="ETag changes with `state` and `keys`. A request with `wait` and"
        " If-None-Match waits for a change.",
    ),
    Route(
        "openapi",
        "/v1/openapi.json",
        "getDescription",
        "This document.",
        {
            200: Success(
                "OpenAPI 3.1.",
                content={
                    JSON: Annotated[
                        dict[str, Any],
                        Meta(extra_json_schema={"required": ["openapi"]}),
                    ]
                },
            )
        },
    ),
    Route(
        "health",
        "/healthz",
        "getHealth",
        "Whether the agent serves requests, independent of keys.",
        {200: Success("The agent serves requests.", (NO_STORE,), {JSON: Health})},
    ),
)
_BY_PATH: Final = {route.path: route for route in ROUTES}


def find_route(path: str) -> Route | None:
    """Return the resource of api.sock with this path."""
    if not path.startswith(KEY_PREFIX):
        return _BY_PATH.get(path)
    # A key may have the name `public`: /v1/keys/public is that key.
    name = path[len(KEY_PREFIX) :]
    return _PUBLIC_KEY if name.endswith(PUBLIC_SUFFIX) else _KEY
