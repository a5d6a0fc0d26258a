"""The OpenAPI document of api.sock: `skragent/serving/openapi.json`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from skragent.error_catalog import CODES
from skragent.serving.http.response import PROBLEM_JSON
from skragent.serving.routes import COMMON_ERRORS, NO_STORE, ROUTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skragent.serving.routes import ErrorResponse, Header, Parameter, Route, Success

_SCHEMA_REF: Final = "#/components/schemas/{name}"
_INFO: Final = {
    "title": "skragent: keys for workloads",
    "version": "1",
    "summary": "The API of /run/skragent/api.sock.",
    "description": "HTTP/1.1 and HTTP/1.0 over a Unix socket. HEAD is GET without the"
    " body, and gives no key away. The connection closes after the response to an"
    " HTTP/1.0 request. The kernel identifies the caller (uid, gid, supplementary"
    " groups, systemd unit) when it connects. The `allow` rules of the configuration"
    " decide, and deny by default. Errors are RFC 9457 problem documents with a stable"
    " `code`. Each request gets one response, in order. The connection closes after an"
    " error that hides the begin of the next request.",
    "license": {"name": "MIT", "identifier": "MIT"},
}
_SERVER: Final = {
    "url": "http://localhost",
    "description": "curl --unix-socket /run/skragent/api.sock http://localhost/...",
}
_HEAD_SUMMARY: Final = "The headers of GET, including Content-Length, without a body."
_HEAD_REFUSED: Final = "HeadRefused"


def document() -> str:
    """Return the document as JSON.

    Raises:
        LookupError: a route has an error code that the catalog does not have.
    """
    writer = _Writer()
    paths = {route.path: writer.path_item(route) for route in ROUTES}
    described = {
        "openapi": "3.1.1",
        "info": _INFO,
        "servers": [_SERVER],
        "paths": paths,
        "components": writer.components,
    }
    return json.dumps(described, indent=2) + "\n"


class _Writer:
    """Writes the paths, and collects the components that they refer to."""

    def __init__(self) -> None:
        self.components: dict[str, dict[str, Any]] = {
            "parameters": {},
            "headers": {},
            "schemas": {},
            "responses": {
                _HEAD_REFUSED: {
                    "description": "The error of GET, without the problem document."
                }
            },
        }

    def path_item(self, route: Route) -> dict[str, Any]:
        """Return the operations of a route: GET and HEAD."""
        errors = {**COMMON_ERRORS, **route.errors}
        responses = {
            **{status: self._success(s) for status, s in route.responses.items()},
            **{status: self._error(r) for status, r in errors.items()},
        }
        get = {
            "operationId": route.operation_id,
            "summary": route.summary,
            **({"description": route.description} if route.description else {}),
            **self._parameters(route.parameters),
            "responses": {
                str(status): responses[status] for status in sorted(responses)
            },
        }
        return {"get": get, "head": self._head(route)}

    def _head(self, route: Route) -> dict[str, Any]:
        refused = {"$ref": f"#/components/responses/{_HEAD_REFUSED}"}
        succeeded = {
            str(status): self._success(success._replace(content={}))
            for status, success in route.responses.items()
        }
        return {
            "operationId": re.sub("^[a-z]+", "head", route.operation_id),
            "summary": _HEAD_SUMMARY,
            **self._parameters(route.parameters),
            "responses": {**succeeded, "4XX": refused, "5XX": refused},
        }

    def _parameters(self, parameters: Iterable[Parameter]) -> dict[str, Any]:
        described = [
            self._component(
                "parameters",
                parameter.component,
                {
                    "name": parameter.name,
                    "in": parameter.place,
                    **({"required": True} if parameter.place == "path" else {}),
                    "description": parameter.text,
                    "schema": self._schema(parameter.kind),
                },
            )
            for parameter in parameters
        ]
        return {"parameters": described} if described else {}

    def _success(self, success: Success) -> dict[str, Any]:
        return {
            "description": success.text,
            **self._headers(success.headers),
            **self._content(success.content),
        }

    def _error(self, error: ErrorResponse) -> dict[str, Any]:
        unknown = [code for code in error.codes if code not in CODES]
        if unknown:
            raise LookupError(f"the catalog has no code {unknown[0]}")
        schema = {
            "allOf": [
                self._schema(error.kind),
                {"properties": {"code": {"enum": list(error.codes)}}},
            ]
        }
        described = {
            "description": error.text,
            **self._headers((NO_STORE, *error.headers)),
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        if not error.component:
            return described
        return self._component("responses", error.component, described)

    def _headers(self, headers: Iterable[Header]) -> dict[str, Any]:
        described = {
            header.name: self._component(
                "headers",
                header.component,
                {
                    "required": True,
                    **({"description": header.text} if header.text else {}),
                    "schema": self._schema(header.kind),
                },
            )
            for header in headers
        }
        return {"headers": described} if described else {}

    def _content(self, content: Mapping[str, Any]) -> dict[str, Any]:
        described = {
            media_type: {"schema": self._schema(kind)}
            for media_type, kind in content.items()
        }
        return {"content": described} if described else {}

    def _schema(self, kind: Any) -> dict[str, Any]:  # noqa: ANN401 - any type has a schema
        """Return the schema of a type. Structures become components."""
        (schema,), components = msgspec.json.schema_components(
            [kind], ref_template=_SCHEMA_REF
        )
        self.components["schemas"].update(components)
        return schema

    def _component(
        self, group: str, name: str, described: dict[str, Any]
    ) -> dict[str, Any]:
        """Store a component, and return a reference to it.

        Raises:
            LookupError: another component has this name.
        """
        if self.components[group].setdefault(name, described) != described:
            raise LookupError(f"two components of {group} have the name {name}")
        return {"$ref": f"#/components/{group}/{name}"}
