"""The OpenAPI 3.1 document: the route table, what each route takes and gives, and the schemas of the wire types.

Problem: a description that is written by hand is wrong after the second change, and a framework that makes one from
annotations would stand in the way of every request. So it is made from what the server runs by: a route is in it
because it is in the route table, a field because the wire type has it, an error because the class exists; and nothing
of it is looked at until somebody asks for the document.

OpenAPI 3.1 has no word for what one item of a stream is. `x-item-schema` is what 3.2 calls `itemSchema`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from hive.api.authentication import COOKIE, LOOPBACK_COOKIE
from hive.api.openapi.operation import (
    ANY,
    CHANGES,
    KEYED,
    Answer,
    EventStream,
    Json,
    Lines,
    Operation,
    Parameter,
    Text,
)
from hive.api.openapi.operation_table import OPERATIONS
from hive.api.openapi.schemas import Schemas
from hive.api.routes import ApiRoute, StreamRoute
from hive.auth.scopes import Scope
from hive.errors import HiveError
from hive.version import VERSION
from hive.wire.api import ErrorReply, tells_errors_as_text
from hive.wire.events import Event
from hive.wire.maintenance import MEDIA_TYPE

Object = dict[str, Any]

_ABOUT: Final = (
    "A self-hosted model download service: POST a model reference, watch it arrive over server-sent events. JSON in, "
    "JSON out, UTF-8. Sizes are bytes, times are unix seconds (UTC). Ignore fields that you do not know: a newer "
    "server may send more. What a request has too much is refused. GET routes answer HEAD too. Bodies may come without "
    "a Content-Type; from a browser they must be `application/json`."
)
#: What modules of handlers are about. One that is not here is called as it is.
_TAGS: Final = {
    "downloads": "Downloads",
    "controls": "Downloads",
    "progress": "Downloads",
    "plans": "Downloads",
    "models": "Models on disk",
    "llm": "Models in memory",
    "maintenance": "Models on disk",
    "tickets": "Tickets and sessions",
    "system": "Server",
    "metrics": "Server",
    "reference": "Server",
    "page": "Page",
}
_SECURITY: Final[Object] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key. A server without keys asks for none. What stands beside it is the scope that the "
        "key must have.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": f"For pages of the server's own origin: `POST /v1/session`. On the loopback it is called "
        f"`{LOOPBACK_COOKIE}`.",
    },
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": "ticket",
        "description": "For an `EventSource`, which can send no header: `POST /v1/tickets`.",
    },
}
_HEADERS: Final[Object] = {
    "X-Request-ID": {
        "description": "The request's id, also on the log's lines: yours, if you sent one, else a new one.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "What to show: a key.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
#: Which errors have which of them.
_HEADERS_OF: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


class Entry(NamedTuple):
    """One line of the route table."""

    method: str
    path: str
    #: The handler.
    answer: Any
    needs: Scope | None

    @property
    def key(self) -> str:
        """`METHOD /path/{name}`, as the operation table has it."""
        return f"{self.method} {self.path}"


def entries(routes: Iterable[ApiRoute | StreamRoute]) -> list[Entry]:
    """The route table, without what converts path parameters."""
    found = []
    for route in routes:
        (method,) = (route.methods or set()) - {"HEAD"}
        answer = route.answer if isinstance(route, StreamRoute) else route.endpoint
        found.append(Entry(method, re.sub(r":[a-z]+}", "}", route.path), answer, route.needs))
    return found


def openapi(routes: Iterable[ApiRoute | StreamRoute]) -> Object:
    """The document of a route table, as what JSON is made of. The same for the same routes."""
    found = [(entry, OPERATIONS.get(entry.key) or _undescribed(entry)) for entry in entries(routes)]
    schemas = Schemas(_types(operation for _, operation in found))
    answers = _Answers(schemas)
    paths: dict[str, Object] = {}
    taken: set[str] = set()
    for entry, operation in found:
        described = _operation(entry, operation, schemas)
        if described["operationId"] in taken:
            # One handler for several paths: each has a word of its own.
            described["operationId"] += "_" + next(word for word in entry.path.split("/") if word not in ("", "api"))
        taken.add(described["operationId"])
        described["responses"] = answers.of(entry, operation)
        paths.setdefault(entry.path, {})[entry.method.lower()] = described
    tags = dict.fromkeys(operation["tags"][0] for item in paths.values() for operation in item.values())
    return {
        "openapi": "3.1.0",
        "info": {"title": "hive", "version": VERSION, "description": _ABOUT, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in tags],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": answers.shared,
            "headers": _HEADERS,
            "securitySchemes": _SECURITY,
        },
    }


_LICENSE: Final = {"name": "Apache 2.0", "identifier": "Apache-2.0"}


def _undescribed(entry: Entry) -> Operation:
    """A route that the table does not have: what its path says, and that it answers JSON."""
    parameters = tuple(
        Parameter(name, "path", {"type": "string"}, "", required=True) for name in re.findall(r"{(\w+)", entry.path)
    )
    return Operation(entry.key, {200: Json(None, "Done.")}, parameters=parameters)


def _types(operations: Iterable[Operation]) -> list[Any]:
    kinds: list[Any] = [ErrorReply]
    for operation in operations:
        kinds += [operation.body] if operation.body is not None else []
        bodies = [a for a in operation.answers.values() if isinstance(a, Json | Lines | EventStream)]
        kinds += [answer.kind for answer in bodies if answer.kind is not None]
    return kinds


def _operation(entry: Entry, operation: Operation, schemas: Schemas) -> Object:
    module, name = entry.answer.__module__.rpartition(".")[2], entry.answer.__name__
    found: Object = {
        "operationId": f"{module}_{name}",
        "tags": [_TAGS.get(module, module.capitalize())],
        "summary": operation.summary,
        "description": _docstring(entry.answer),
    }
    if entry.needs is not None:
        found["security"] = [{scheme: [entry.needs]} for scheme in _schemes(operation)]
    if operation.parameters:
        found["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body)}}
        found["requestBody"] = {"required": not operation.body_optional, "content": content}
    return found


def _schemes(operation: Operation) -> Iterator[str]:
    """What a request may show, each of it enough by itself."""
    yield "bearer"
    if not operation.by_key_only:
        yield "session"
    if operation.body is None and any(isinstance(answer, EventStream) for answer in operation.answers.values()):
        yield "ticket"


def _docstring(endpoint: Any) -> str:
    """What the handler says of itself, behind the name of its route."""
    paragraphs = (inspect.getdoc(endpoint) or "").split("\n\n")
    text = " ".join(paragraphs[0].split())
    text = re.sub(r"^`[A-Z]+ [^`]*`[:;.]?\s*", "", text)
    return text[:1].upper() + text[1:]


def _parameter(parameter: Parameter) -> Object:
    found: Object = {"name": parameter.name, "in": parameter.where, "schema": parameter.schema}
    if parameter.about:
        found["description"] = parameter.about
    if parameter.required:
        found["required"] = True
    return found


# -- answers ---------------------------------------------------------------------------------------------------------


class _Answers:
    """Answers by status: the good ones, then the errors, each with the codes that it may have.

    Most routes share most of their errors, so these are components.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._shared: dict[str, Object] = {}

    @property
    def shared(self) -> dict[str, Object]:
        """The errors, by their codes."""
        return dict(sorted(self._shared.items()))

    def of(self, entry: Entry, operation: Operation) -> Object:
        """The answers of one operation."""
        found: Object = {
            str(status): {"description": answer.about, "headers": _headers(), **self._content(answer)}
            for status, answer in sorted(operation.answers.items())
        }
        by_status: dict[int, list[type[HiveError]]] = {}
        for error in errors_of(entry, operation):
            by_status.setdefault(error.status, []).append(error)
        for status, kinds in sorted(by_status.items()):
            by_code = {kind.code: kind for kind in reversed(kinds)}
            found[str(status)] = self._refusal(status, by_code, is_text=tells_errors_as_text(entry.path))
        return found

    def _content(self, answer: Answer) -> Object:
        """What an answer's body is, by media type."""
        if isinstance(answer, Json):
            schema = self._schemas.of(answer.kind) if answer.kind is not None else {"type": "object"}
            return {"content": {"application/json": {"schema": schema}}}
        if isinstance(answer, Lines):
            return {"content": {MEDIA_TYPE: {"schema": _TEXT, "x-item-schema": self._schemas.of(answer.kind)}}}
        if isinstance(answer, EventStream):
            frame = _frame(self._schemas.of(answer.kind or Event), of_many=answer.of_many)
            return {"content": {"text/event-stream": {"schema": _TEXT, "x-item-schema": frame}}}
        if isinstance(answer, Text):
            return {"content": {media_type: {"schema": _TEXT} for media_type in answer.media_types}}
        return {}

    def _refusal(self, status: int, kinds: Mapping[str, type[HiveError]], *, is_text: bool) -> Object:
        """An error: the shape that all have, or that of Ollama's addresses, and the codes under this status."""
        codes = sorted(kinds)
        more = _HEADERS_OF.get(status, ())
        name = f"{status}.{'.'.join(codes)}"
        if is_text:
            schema: Object = {"type": "object", "properties": {"error": _TEXT, "code": {"enum": codes}}}
            name = f"{name}.text"
        else:
            narrowed = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
            schema = {"allOf": [self._schemas.of(ErrorReply), narrowed]}
        self._shared[name] = {
            "description": "\n\n".join(f"`{code}`: {kinds[code]().message}" for code in codes),
            "headers": _headers(*more),
            "content": {"application/json": {"schema": schema}},
        }
        return {"$ref": f"#/components/responses/{name}"}


_TEXT: Final = {"type": "string"}


def errors_of(entry: Entry, operation: Operation) -> list[type[HiveError]]:
    """What a request for this operation may end with."""
    keyed = () if entry.needs is None else KEYED
    changes = () if entry.method == "GET" else CHANGES
    return list(dict.fromkeys((*operation.may_end_with, *ANY, *keyed, *changes)))


def _headers(*more: str) -> Object:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *more)}


def _frame(event: Object, *, of_many: bool) -> Object:
    """One server-sent event, in the way in which OpenAPI 3.2 describes them."""
    version = r"[0-9]+-[0-9]+"
    properties: Object = {}
    if of_many:
        owner: Object = {"type": "object", "required": ["download_id"]}
        owner["properties"] = {"download_id": {"type": "string", "format": "uuid"}}
        event, version = {"allOf": [owner, event]}, f"[0-9a-f-]{{36}}:{version}"
        properties["event"] = {"enum": ["progress", "end"]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": event}
    properties["id"] = {"type": "string", "pattern": f"^{version}$"}
    properties["data"] = {"anyOf": [data, {"const": "[DONE]"}]}
    about = "Milliseconds to wait before connecting again."
    properties["retry"] = {"type": "integer", "minimum": 0, "description": about}
    return {"type": "object", "properties": properties}
