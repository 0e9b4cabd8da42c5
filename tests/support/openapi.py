"""The OpenAPI document of the route table, and what an answer must be by it."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import jsonschema

from hive.api.app import ROUTES
from hive.api.openapi.document import openapi

Object = dict[str, Any]

#: Schemas that a newer worker may add fields to, which a server passes on as they come.
OPEN = {"Downloading", "Complete", "Error", "FileProgress"}


@cache
def document() -> Object:
    """The document."""
    return openapi(ROUTES)


@cache
def strict_document() -> Object:
    """The same, and no answer has a field that the document does not have."""
    strict = copy.deepcopy(document())
    for name, schema in strict["components"]["schemas"].items():
        if "properties" in schema and name not in OPEN:
            schema["additionalProperties"] = False
    return strict


def operation_at(method: str, path: str) -> Object | None:
    """The operation that answers this address; a fixed path goes before one with parameters."""
    for template, methods in sorted(document()["paths"].items(), key=lambda item: ("{" in item[0], item[0])):
        # The id of a model has slashes, which OpenAPI has no word for.
        anything = ".+" if template == "/v1/models/{id}" else "[^/]+"
        if re.fullmatch(re.sub(r"\\{\w+\\}", anything, re.escape(template)), path) and method.lower() in methods:
            found: Object = methods[method.lower()]
            return found
    return None


def validate(schema: Object, instance: Any) -> None:
    """Raise jsonschema.ValidationError where this is not what the schema says."""
    whole = {**schema, "components": strict_document()["components"]}
    jsonschema.Draft202012Validator(whole).validate(instance)


def response_of(operation: Object, status: int) -> Object:
    """What the document says of an operation's answer of this status. Fails where it says nothing."""
    found: Object | None = operation["responses"].get(str(status))
    assert found is not None, f"{operation['operationId']} does not say that it answers {status}"
    if "$ref" in found:
        found = document()["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return found


def check_answer(operation: Object | None, status: int, media_type: str, body: str) -> None:
    """Fail where an answer is not what the document says of this operation; None is an address that there is not."""
    if operation is None:
        assert status in (404, 405)
        validate({"$ref": "#/components/schemas/ErrorReply"}, json.loads(body))
        return
    content = response_of(operation, status).get("content", {})
    if not content:
        assert body == ""
        return
    described = content.get(media_type.partition(";")[0].strip())
    assert described is not None, f"{media_type} is none of {sorted(content)}"
    if media_type == "application/x-ndjson":
        for line in filter(None, body.splitlines()):
            validate(described["x-item-schema"], json.loads(line))
    elif media_type == "application/json":
        validate(described["schema"], json.loads(body))
