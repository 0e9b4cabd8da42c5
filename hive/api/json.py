"""JSON in and out: request bodies are read into msgspec structs, every answer and every error has one shape."""

from __future__ import annotations

import codecs
import logging
from typing import Any, Final, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from hive import errors, logs
from hive.disk_errors import disk_error, is_disk_error
from hive.own_limits import limit_reached
from hive.wire.api import (
    INFERENCE_PATH,
    OLLAMA_PROMPT_PATHS,
    OPENAI_PATHS,
    ErrorBody,
    ErrorReply,
    error_type,
    tells_errors_as_text,
)
from hive.wire.encoding import encode_json

log = logging.getLogger("hive.api")

T = TypeVar("T", bound=msgspec.Struct)

#: The largest request body, in bytes; and of a request to a model, whose prompt may be long.
MAX_BODY_BYTES = 65_536
MAX_PROMPT_BODY_BYTES = 262_144


#: What is told of a request that would change something at the Hub, or make a model as Ollama does.
READ_ONLY: Final = (
    "Models are handed on here, not written. What is for the Hub goes to it directly: without HF_ENDPOINT."
)
#: What editors of Windows put before a text. RFC 8259 lets who reads JSON ignore it.
BOM = codecs.BOM_UTF8


def max_body_bytes(path: str) -> int:
    """How large the body of a request to this address may be."""
    takes_prompt = path == INFERENCE_PATH or path in OPENAI_PATHS or path in OLLAMA_PROMPT_PATHS
    return MAX_PROMPT_BODY_BYTES if takes_prompt else MAX_BODY_BYTES


def body_too_large(path: str) -> errors.BodyTooLarge:
    """What is told of a longer one."""
    limit = max_body_bytes(path)
    return errors.BodyTooLarge(f"The request body is over {limit // 1024} KiB.", limit_bytes=limit)


class JsonResponse(Response):
    """An answer in JSON, from one of the records of hive.wire.api."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return encode_json(content)


async def read_body(request: Request, kind: type[T], default: T | None = None) -> T:
    """The request's body as `kind`; `default`, where there is one, when it is empty. Bounded while it is read.

    Raises:
        BadRequest: not JSON, too deep, or not of this form; the message names the field.
        BodyTooLarge: over 64 KiB.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:  # Starlette's own limit would answer in plain text
            raise errors.BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    body = body.removeprefix(BOM)
    if not body and default is not None:
        return default
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise errors.BadRequest(f"The request body is not what this address takes: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise errors.BadRequest(f"The request body is not valid JSON: {reason}.") from None


def error_reply(error: errors.HiveError, request_id: str) -> ErrorReply:
    """The body of an error."""
    return ErrorReply(
        ErrorBody(
            code=error.code,
            message=error.message,
            details=error.details,
            request_id=request_id,
            type=error_type(error.status),
        )
    )


def error_response(error: errors.HiveError, path: str = "", status: int = 0) -> JsonResponse:
    """`{"error": {"code", "message", "details", "request_id"}}` with the error's status, or another.

    At an address of Ollama's or the Hub's clients (`path`) it is `{"error": "message", "code"}`: they show it as text.
    """
    headers: dict[str, str] | None = None
    if error.status in (429, 503):
        wait_s = error.details.get("retry_after_s")  # of a worker's error, perhaps: anything
        headers = {"retry-after": str(wait_s) if isinstance(wait_s, int) else "1"}
    elif error.status == 401:
        headers = {"www-authenticate": 'Bearer realm="hive"'}
    elif error.status == 405:
        headers = {"allow": error.details.get("allow", "")}
    body: Any = error_reply(error, logs.bound_field("request_id"))
    if tells_errors_as_text(path):
        body = {"error": error.message, "code": error.code}
        # What a HEAD has no body for, and what huggingface_hub looks at first.
        text = "".join(char if " " <= char <= "~" else "?" for char in error.message)
        headers = {**(headers or {}), "x-error-message": text}
    return JsonResponse(body, status_code=status or error.status, headers=headers)


async def on_hive_error(request: Request, error: Exception) -> Response:
    """Any of our own errors."""
    assert isinstance(error, errors.HiveError)
    return error_response(error, request.url.path)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown addresses, methods, bodies that are too large."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(
            errors.NotFound(f"There is nothing at {request.url.path[:200]!r}. The addresses are in docs/api.md."),
            request.url.path,
        )
    if error.status_code == 405:
        writes = request.url.path.startswith("/api/") and request.method in ("POST", "PUT", "PATCH", "DELETE")
        text = READ_ONLY if writes else None
        return error_response(errors.MethodNotAllowed(text, allow=_allowed(request)), request.url.path)
    return error_response(errors.BadRequest(str(error.detail)), request.url.path)


def _allowed(request: Request) -> str:
    """The methods of the address, which Starlette names of its first route alone."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = next((route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE), None)
    return ", ".join(sorted({method for route in routes if route.path == path for method in route.methods or ()}))


async def on_disconnect(_: Request, error: Exception) -> Response:
    """A client that went away with half of its body sent: nobody hears this, and it is nothing to log."""
    return error_response(errors.BadRequest("The request broke off."))


async def on_disk_error(request: Request, error: Exception) -> Response:
    """What a disk refused: no mistake of ours, so it is named, with its path."""
    assert isinstance(error, OSError)
    if not is_disk_error(error):
        raise error
    found = disk_error(error)
    log.warning("the store refused", extra={"fields": {"code": found.code, "reason": found.message}})
    return error_response(found, request.url.path)


async def on_crash(request: Request, error: Exception) -> Response:
    """A mistake of ours: logged with its traceback by the server, told without it."""
    return error_response(limit_reached(error) or errors.InternalError(), request.url.path)
