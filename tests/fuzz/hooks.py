"""What schemathesis is told beside the document: what exists, and that each answer is looked at strictly.

Runs inside schemathesis' own process (tests/fuzz/running.py). Without known ids nearly every generated request ends at
the first look-up, with a 404.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from typing import Any

import schemathesis

from hive.wire.refs import MAX_REF_CHARS
from tests.support.openapi import check_answer

#: What exists on the server: ids of downloads and models, and references that can be asked for.
KNOWN: dict[str, list[str]] = json.loads(os.environ.get("HIVE_FUZZ_KNOWN", "{}"))
#: The codes of answers above 499 that are right here: no machine runs models.
UNAVAILABLE = frozenset({"MODEL_NOT_LOADED", "WORKERS_SILENT", "BACKEND_UNAVAILABLE"})
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: The longest wait of a long poll, in its own words.
SHORT_WAIT = "0.1s"


def _sometimes(value: object, known: list[str]) -> str | None:
    """One of `known`, or None for the value as it is; the same for the same value, so that runs can be repeated."""
    number = zlib.crc32(repr(value).encode("utf-8", "replace"))
    return known[number // 4 % len(known)] if known and number % 4 else None


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """An id that exists, three times of four. No model is in memory here: those ids are only such as have a route."""
    if isinstance(path_parameters, dict) and "id" in path_parameters:
        if context.operation.path.startswith(("/v1/workers/", "/v1/inference/")):
            return {**path_parameters, "id": re.sub(r"[^A-Za-z0-9._:-]|^\.+$", "_", str(path_parameters["id"])) or "_"}
        kind = "downloads" if "/downloads/" in context.operation.path else "models"
        if kind == "downloads" and not UUID.fullmatch(str(path_parameters["id"])):
            return path_parameters  # it is meant to be wrong, and stays so
        found = _sometimes(path_parameters["id"], KNOWN.get(kind, []))
        return path_parameters if found is None else {**path_parameters, "id": found}
    return path_parameters


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """No long polls."""
    if isinstance(query, dict) and isinstance(query.get("wait"), str) and query["wait"][:1].isdigit():
        return {**query, "wait": SHORT_WAIT}
    return query


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """References that mean something, three times of four. One that is too long is meant to be wrong, and stays so."""
    ref = body.get("model_ref") if isinstance(body, dict) else None
    if isinstance(ref, str) and len(ref) <= MAX_REF_CHARS:
        found = _sometimes(ref, KNOWN.get("refs", []))
        return body if found is None else {**body, "model_ref": found}
    return body


@schemathesis.check
def answers_as_the_document_says(ctx: Any, response: Any, case: Any) -> None:
    """The body has no field that is not described, lines too; there is a request id, and no word of Python."""
    asked = case.operation
    operation = asked.definition.raw if case.method.lower() == asked.method.lower() else None
    media_type = (response.headers.get("content-type") or [""])[0]
    assert response.headers.get("x-request-id"), "no X-Request-ID"
    assert "Traceback" not in response.text
    if response.status_code >= 500:
        code = json.loads(response.text)["error"]["code"]
        assert code in UNAVAILABLE, code
    if response.status_code == 405:
        operation = None
    check_answer(operation, response.status_code, media_type, response.text)
