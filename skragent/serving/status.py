"""`/v1/status` of both sockets: a document with a tag, that can be waited on."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from skragent.observe import names
from skragent.serving.http.response import JSON, Response
from skragent.serving.query import is_known_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.observe import Cell


def status_response(
    document: Mapping[str, Any],
    if_none_match: str,
    *,
    must: bool,
    cell_of: Callable[[str], Cell],
) -> Response | None:
    """Answer with a document; None where the caller has it and can wait.

    The tag is a digest of `state` and `keys`: what nobody may see changes nothing, and
    neither does time, by which `due_at` is computed anew each time.
    """
    tag = _digest(document["state"], document["keys"])
    is_known = is_known_tag(if_none_match, tag)
    if is_known and not must:
        return None
    return Response(
        HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
        {"Content-Type": JSON, "Cache-Control": "no-store", "ETag": f'"{tag}"'},
        b"" if is_known else json.dumps(document).encode(),
        cell=cell_of(names.CODE_NOT_MODIFIED if is_known else names.CODE_OK),
    )


def _digest(state: str, keys: Sequence[Mapping[str, object]]) -> str:
    lasting = [{k: v for k, v in key.items() if k != "due_at"} for key in keys]
    return hashlib.sha256(json.dumps([state, lasting]).encode()).hexdigest()[:32]
