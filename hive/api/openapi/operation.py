"""The vocabulary of operations: parameters, kinds of answers, and errors that several routes end with.

The table that is written in it is operation_table.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from hive import errors, serving_errors
from hive.error_codes import all_errors
from hive.errors import HiveError
from hive.wire import api

Schema = dict[str, Any]


class Parameter(NamedTuple):
    """What a request brings beside its body."""

    name: str
    where: Literal["path", "query", "header"]
    schema: Schema
    about: str
    required: bool = False


class Json(NamedTuple):
    """An answer in JSON: one of the wire types, or anything with `None`."""

    kind: Any
    about: str


class EventStream(NamedTuple):
    """An answer of server-sent events. `of_many`: the events say whose they are; `kind`: their union, where they are
    not those of downloads.
    """

    about: str
    of_many: bool = False
    kind: Any = None


class Lines(NamedTuple):
    """An answer of JSON objects, one a line; `kind` is their union."""

    kind: Any
    about: str


class Text(NamedTuple):
    """An answer of one of these media types."""

    media_types: tuple[str, ...]
    about: str


class Nothing(NamedTuple):
    """An answer without a body."""

    about: str


Answer = Json | EventStream | Lines | Text | Nothing


class Operation(NamedTuple):
    """One method of one path. `may_end_with`: the errors of its own, beside those that any request may end with."""

    summary: str
    answers: Mapping[int, Answer]
    body: Any = None
    #: Whether the body may be left out.
    body_optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    may_end_with: tuple[type[HiveError], ...] = ()
    #: Whether it takes a key itself, and neither a session nor a ticket.
    by_key_only: bool = False


def tree(*kinds: type[HiveError]) -> tuple[type[HiveError], ...]:
    """These errors and all that are kinds of them."""
    return tuple(found for found in all_errors() if issubclass(found, kinds))


# -- errors that routes share ----------------------------------------------------------------------------------------

#: What any request may end with.
ANY: Final = (
    errors.BadRequest,
    errors.RequestTimeout,
    errors.BodyTooLarge,
    errors.MisdirectedRequest,
    errors.HeadersTooLarge,
    errors.TooManyRequests,
    errors.ResourcesExhausted,
    errors.InternalError,
)
#: What a request to a route with a scope may end with.
KEYED: Final = (
    *(errors.MissingApiKey, errors.InvalidApiKey, errors.InsufficientScope),
    *(errors.TooManyFailedKeys, errors.KeyFileUnusable),
)
#: What a request may end with that could change something: all but GET and HEAD.
CHANGES: Final = (errors.ForeignOrigin, errors.UnsupportedMediaType)
REDIS: Final = (errors.RedisUnavailable,)
BUSY: Final = (errors.ServerBusy,)
DISK: Final = (errors.DiskFull, errors.StoreNotWritable)
FIND: Final = (errors.InvalidId, errors.DownloadNotFound, *REDIS, *BUSY)
CHANGE: Final = (*FIND, errors.DownloadEnded, errors.Conflict)
ASK: Final = (
    *(errors.InvalidModelRef, errors.UnsafeUrl, errors.TooManyDownloads, errors.TooManyWebhooks),
    errors.QuotaExceeded,
    *(*REDIS, *BUSY, *DISK),
)
#: What a request for a model in memory may end with, and one to such a model.
ASK_MODEL: Final[tuple[type[HiveError], ...]] = (
    errors.InvalidModelRef,
    errors.UnsafeUrl,
    errors.TooManyDownloads,
    errors.QuotaExceeded,
    errors.RedisUnavailable,
    errors.ServerBusy,
)
ASK_WORKER: Final[tuple[type[HiveError], ...]] = (
    *ASK_MODEL,
    errors.RequestTimeout,
    errors.Conflict,
    errors.BackendUnavailable,
    errors.ModelNotServable,
    errors.WorkersSilent,
    *tree(serving_errors.ServingError),
)
#: What a reference may turn out to mean, as a worker says it.
RESOLVE: Final = (*tree(errors.NotFound, errors.HubUnavailable, errors.DownloadError), errors.ModelAccessDenied)

# -- parameters ------------------------------------------------------------------------------------------------------

UUID: Final[Schema] = {"type": "string", "format": "uuid"}
VERSION: Final[Schema] = {"type": "string", "maxLength": 40}
DOWNLOAD: Final = Parameter(
    "id", "path", UUID, "The `download_id` that `POST /v1/models/download` answered.", required=True
)
HUB_REST: Final = Parameter(
    "id",
    "path",
    {"type": "string"},
    "As the Hub's clients write it; a revision has its slashes encoded.",
    required=True,
)
WORKER_ID: Final = Parameter("id", "path", {"type": "string"}, "As `GET /v1/workers/list` has it.", required=True)
MODEL: Final = Parameter(
    "id",
    "path",
    {"type": "string", "minLength": 1},
    "`org/name`, `org/name:Q4_K_M`, `org/name@revision` or `url/<16 hex digits>/<file>`; slashes as they are.",
    required=True,
)
LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", "header", VERSION, "The last `id` that was seen: nothing older is sent again."
)

EVENTS: Final = (
    "Server-sent events. Each `data` is one line of JSON that says how things stand; `[DONE]` follows the end, and a "
    "stream that ends without it means: connect again. Who asks with `Accept: text/event-stream`, or brings a "
    "Last-Event-ID, gets `id` and `retry` too; others get `data` alone. A comment comes after 10 s of silence. HEAD "
    "answers at once."
)
LINES: Final = (
    "One JSON object a line, written as the work goes on, with an empty line after a while of silence. The last one is "
    "`end` or `error`; an answer without either was broken off. Whoever closes the connection stops the work."
)
MADE: Final = {
    202: Json(api.Started, "A new download, or one under way that was joined."),
    200: Json(api.Started, "The model is on disk, at `local_path`."),
}


def changed(about: str) -> Mapping[int, Answer]:
    """The answer of a route that changes a download and gives it back."""
    return {202: Json(api.Download, about)}


# -- the table -------------------------------------------------------------------------------------------------------

#: By method and path, as the route table has them.

#: Of a route that hands out the bytes of a file.
RANGE: Final = Parameter("Range", "header", {"type": "string"}, "One range of bytes, such as `bytes=1000-`.")
PARTS: Final[Mapping[int, Answer]] = {
    206: Text(("application/octet-stream",), "The range that was asked for."),
    304: Nothing("As the `If-None-Match` says."),
    412: Nothing("As the `If-Match` says."),
    416: Nothing("The range lies behind the end."),
}
