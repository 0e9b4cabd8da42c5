"""What each route takes and gives, as far as the code cannot say it by itself.

The route table has methods and paths, the handlers have docstrings, the wire types have fields. What a handler reads
from the query, which of the errors it may end with, and that an answer is a stream, stands nowhere but in its body; so
it stands here, once for each route. Everything is named by what the code uses, so that a limit that changes there
changes here, and an error that is gone is an import that fails.

A route that is not here is in the document all the same, with its handler's docstring; tests/api/test_openapi.py asks
for its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from hive import errors, serving_errors
from hive.api.downloads import DEFAULT_LIMIT, MAX_LIMIT
from hive.error_codes import all_errors
from hive.errors import HiveError
from hive.streams.longpoll import MAX_WAIT_S
from hive.streams.many import MAX_IDS
from hive.wire import api, llm, maintenance
from hive.wire.events import ActiveStatus, TerminalStatus
from hive.wire.proof import NONCE
from hive.wire.refs import MAX_REF_CHARS

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
    errors.InternalError,
)
#: What a request to a route with a scope may end with.
KEYED: Final = (
    *(errors.MissingApiKey, errors.InvalidApiKey, errors.InsufficientScope),
    *(errors.TooManyFailedKeys, errors.KeyFileUnusable),
)
#: What a request may end with that could change something: all but GET and HEAD.
CHANGES: Final = (errors.ForeignOrigin, errors.UnsupportedMediaType)
_REDIS: Final = (errors.RedisUnavailable,)
_BUSY: Final = (errors.ServerBusy,)
_DISK: Final = (errors.DiskFull, errors.StoreNotWritable)
_FIND: Final = (errors.InvalidId, errors.DownloadNotFound, *_REDIS, *_BUSY)
_CHANGE: Final = (*_FIND, errors.DownloadEnded, errors.Conflict)
_ASK: Final = (
    *(errors.InvalidModelRef, errors.UnsafeUrl, errors.TooManyDownloads, errors.TooManyWebhooks),
    errors.QuotaExceeded,
    *(*_REDIS, *_BUSY, *_DISK),
)
#: What a request for a model in memory may end with, and one to such a model.
_ASK_MODEL: Final[tuple[type[HiveError], ...]] = (
    errors.InvalidModelRef,
    errors.UnsafeUrl,
    errors.TooManyDownloads,
    errors.QuotaExceeded,
    errors.RedisUnavailable,
    errors.ServerBusy,
)
_ASK_WORKER: Final[tuple[type[HiveError], ...]] = (
    *_ASK_MODEL,
    errors.RequestTimeout,
    errors.Conflict,
    errors.BackendUnavailable,
    errors.ModelNotServable,
    errors.WorkersSilent,
    *tree(serving_errors.ServingError),
)
#: What a reference may turn out to mean, as a worker says it.
_RESOLVE: Final = (*tree(errors.NotFound, errors.HubUnavailable, errors.DownloadError), errors.ModelAccessDenied)

# -- parameters ------------------------------------------------------------------------------------------------------

_UUID: Final[Schema] = {"type": "string", "format": "uuid"}
_VERSION: Final[Schema] = {"type": "string", "maxLength": 40}
_DOWNLOAD: Final = Parameter(
    "id", "path", _UUID, "The `download_id` that `POST /v1/models/download` answered.", required=True
)
_HUB_REST: Final = Parameter(
    "id",
    "path",
    {"type": "string"},
    "As the Hub's clients write it; a revision has its slashes encoded.",
    required=True,
)
_WORKER_ID: Final = Parameter("id", "path", {"type": "string"}, "As `GET /v1/workers/list` has it.", required=True)
_MODEL: Final = Parameter(
    "id",
    "path",
    {"type": "string", "minLength": 1},
    "`org/name`, `org/name:Q4_K_M`, `org/name@revision` or `url/<16 hex digits>/<file>`; slashes as they are.",
    required=True,
)
_LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID", "header", _VERSION, "The last `id` that was seen: nothing older is sent again."
)

_EVENTS: Final = (
    "Server-sent events. Each `data` is one line of JSON that says how things stand; `[DONE]` follows the end, and a "
    "stream that ends without it means: connect again. Who asks with `Accept: text/event-stream`, or brings a "
    "Last-Event-ID, gets `id` and `retry` too; others get `data` alone. A comment comes after 10 s of silence. HEAD "
    "answers at once."
)
_LINES: Final = (
    "One JSON object a line, written as the work goes on, with an empty line after a while of silence. The last one is "
    "`end` or `error`; an answer without either was broken off. Whoever closes the connection stops the work."
)
_MADE: Final = {
    202: Json(api.Started, "A new download, or one under way that was joined."),
    200: Json(api.Started, "The model is on disk, at `local_path`."),
}


def _changed(about: str) -> Mapping[int, Answer]:
    return {202: Json(api.Download, about)}


# -- the table -------------------------------------------------------------------------------------------------------

#: By method and path, as the route table has them.
OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /v1/models/download": Operation(
        "Start a download, or join the one under way", _MADE, api.DownloadRequest, may_end_with=_ASK
    ),
    "POST /v1/models/plan": Operation(
        "What a download would bring",
        {200: Json(api.DownloadPlan, "Files, sizes, digests, what is missing, and whether it fits.")},
        api.PlanRequest,
        may_end_with=(*_ASK, *_RESOLVE, errors.WorkersSilent),
    ),
    f"GET {api.PROGRESS_PATH}": Operation(
        "Watch a download",
        {
            200: EventStream(_EVENTS),
            204: Nothing("The Last-Event-ID is the end's: there is nothing more. This stops an `EventSource`."),
        },
        parameters=(
            Parameter("id", "query", _UUID, "Which download.", required=True),
            _LAST_EVENT_ID,
            Parameter("last_event_id", "query", _VERSION, "The same, for who cannot set headers."),
        ),
        may_end_with=(errors.DownloadNotFound, errors.TooManyStreams, *_REDIS, *_BUSY),
    ),
    f"GET {api.MANY_PATH}": Operation(
        "Watch many downloads in one stream",
        {
            200: EventStream(
                f"{_EVENTS} First comes the present state of each, then every change. A stream for named downloads "
                "ends with `[DONE]` when all have ended; one for all, or all active ones, goes on.",
                of_many=True,
            )
        },
        parameters=(
            Parameter(
                "id",
                "query",
                {"type": "array", "items": _UUID, "maxItems": MAX_IDS},
                "Which downloads, each as an `id` of its own; none: all there are, and new ones as they come.",
            ),
            Parameter("status", "query", {"enum": ["active"]}, "Those alone that have not ended; not beside `id`."),
            _LAST_EVENT_ID,
        ),
        may_end_with=(errors.DownloadNotFound, errors.TooManyDownloads, errors.TooManyStreams, *_REDIS, *_BUSY),
    ),
    "GET /v1/downloads": Operation(
        "List downloads, newest first",
        {200: Json(api.Page[api.Download], "One page.")},
        parameters=(
            Parameter(
                "status",
                "query",
                {"enum": ["active", "ended", *get_args(ActiveStatus), *get_args(TerminalStatus)]},
                "Only those of this status; `active`: not ended.",
            ),
            Parameter(
                "limit",
                "query",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
                "How many a page has.",
            ),
            Parameter(
                "model",
                "query",
                {"type": "string", "maxLength": MAX_REF_CHARS},
                "Only those whose reference or name has this text in it, in any case.",
            ),
            Parameter("cursor", "query", {"type": "string"}, "The `next_cursor` of the page before."),
        ),
        may_end_with=_REDIS,
    ),
    "GET /v1/downloads/{id}": Operation(
        "One download",
        {200: Json(api.Download, "How it stands.")},
        parameters=(
            _DOWNLOAD,
            Parameter(
                "wait",
                "query",
                {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,3})?s?$"},
                f"A long poll: answer when it has ended, or after so many seconds, such as `30s`; {MAX_WAIT_S:g} s at "
                "most.",
            ),
        ),
        may_end_with=_FIND,
    ),
    "DELETE /v1/downloads/{id}": Operation(
        "Cancel a download",
        _changed("It has ended, or ends within two seconds."),
        parameters=(
            _DOWNLOAD,
            Parameter("purge", "query", {"type": "boolean", "default": False}, "Its partial files go too."),
        ),
        may_end_with=(*_CHANGE, *_DISK),
    ),
    "POST /v1/downloads/{id}/pause": Operation(
        "Set a download aside",
        _changed("It is paused, or will be within two seconds."),
        parameters=(_DOWNLOAD,),
        may_end_with=_CHANGE,
    ),
    "POST /v1/downloads/{id}/resume": Operation(
        "Let a paused download go on",
        _changed("It waits for a worker again."),
        parameters=(_DOWNLOAD,),
        may_end_with=_CHANGE,
    ),
    "POST /v1/downloads/{id}/retry": Operation(
        "Try again what failed or was cancelled",
        _MADE,
        api.RetryRequest,
        body_optional=True,
        parameters=(_DOWNLOAD,),
        may_end_with=(*_FIND, *_ASK, errors.Conflict),
    ),
    "PUT /v1/downloads/{id}/priority": Operation(
        "Change how soon a download gets a worker",
        _changed("Its priority is changed."),
        api.PriorityRequest,
        parameters=(_DOWNLOAD,),
        may_end_with=_CHANGE,
    ),
    "GET /v1/models": Operation(
        "Models on disk", {200: Json(api.Listing[api.Model], "All of them, by id.")}, may_end_with=_DISK
    ),
    "GET /v1/models/{id}": Operation(
        "One model on disk",
        {200: Json(api.Model, "The model.")},
        parameters=(_MODEL,),
        may_end_with=(errors.ModelNotOnDisk, *_DISK),
    ),
    "DELETE /v1/models/{id}": Operation(
        "Delete a model from the disk",
        {200: Json(api.Deleted, "The model is gone.")},
        parameters=(_MODEL,),
        may_end_with=(errors.ModelNotOnDisk, errors.ModelInUse, *_REDIS, *_DISK),
    ),
    "GET /v1/blobs/{digest}": Operation(
        "A content by its digest",
        {
            200: Text(("application/octet-stream",), "All of it. Several ranges at once are answered so, too."),
            206: Text(("application/octet-stream",), "The range that was asked for."),
            304: Nothing("As the `If-None-Match` says."),
            412: Nothing("As the `If-Match` says."),
            416: Nothing("The range lies behind the end."),
        },
        parameters=(
            Parameter(
                "digest",
                "path",
                {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
                "As files list it.",
                required=True,
            ),
            Parameter("Range", "header", {"type": "string"}, "One range of bytes, such as `bytes=1000-`."),
        ),
        may_end_with=(errors.NotFound, *_BUSY, *_DISK),
    ),
    "POST /v1/models/verify": Operation(
        "Compare what is on disk with its digests",
        {200: Lines(maintenance.VerificationLine, _LINES)},
        api.VerifyRequest,
        body_optional=True,
        may_end_with=(errors.ModelNotOnDisk, errors.Conflict, *_DISK),
    ),
    "POST /v1/gc": Operation(
        "Remove from disk what nothing refers to",
        {200: Lines(maintenance.CollectionLine, _LINES)},
        api.CollectRequest,
        body_optional=True,
        may_end_with=(errors.Conflict, *_DISK),
    ),
    "GET /v1/workers": Operation(
        "Workers that are alive", {200: Json(api.Listing[api.Worker], "All of them.")}, may_end_with=_REDIS
    ),
    "POST /v1/workers/spawn": Operation(
        "Load a model into memory",
        {200: Json(llm.Spawned, "The worker, and where it listens; watch it at GET /v1/loading/progress.")},
        llm.SpawnRequest,
        may_end_with=(
            *_ASK_MODEL,
            *(
                errors.ModelNotServable,
                errors.BackendUnavailable,
                serving_errors.InsufficientRam,
                serving_errors.VramExhausted,
            ),
            *(serving_errors.NoPortFree, errors.WorkersSilent, errors.ModelNotOnDisk, serving_errors.ServingError),
            *tree(errors.DownloadError),
        ),
    ),
    "POST /v1/workers/ready": Operation(
        "A worker has its model in memory",
        {200: Json(llm.Said, "It is listed.")},
        llm.ReadyRequest,
        may_end_with=(errors.Conflict, errors.UnsafeUrl, *_REDIS),
    ),
    "POST /v1/heartbeat": Operation(
        "A worker lives",
        {200: Json(llm.Said, "It is noted.")},
        llm.HeartbeatRequest,
        may_end_with=(errors.LlmWorkerNotFound, *_REDIS),
    ),
    "GET /v1/workers/list": Operation(
        "The workers that have a model in memory",
        {200: Json(llm.LlmWorkers, "Those that load one too.")},
        may_end_with=_REDIS,
    ),
    "DELETE /v1/workers/{id}": Operation(
        "End a worker",
        {200: Json(llm.Said, "What it answers may end; then its memory goes back.")},
        parameters=(_WORKER_ID,),
        may_end_with=(errors.LlmWorkerNotFound, *_REDIS),
    ),
    "GET /v1/backends/list": Operation(
        "What may calculate", {200: Json(llm.Backends, "Each, and whether a machine has it.")}, may_end_with=_REDIS
    ),
    "GET /v1/devices": Operation(
        "The devices of machines that run models", {200: Json(llm.Devices, "Of all machines.")}, may_end_with=_REDIS
    ),
    "GET /v1/resources": Operation(
        "The memory of machines that run models", {200: Json(llm.Resources, "Of all machines.")}, may_end_with=_REDIS
    ),
    "GET /v1/loading/progress": Operation(
        "Watch a model being loaded",
        {200: EventStream("The present state at once, what changes, the end, and `[DONE]`.", kind=llm.LoadingEvent)},
        parameters=(
            Parameter("id", "query", {"type": "string"}, "The worker's, from POST /v1/workers/spawn.", required=True),
        ),
        may_end_with=(errors.LlmWorkerNotFound, errors.TooManyStreams, *_REDIS),
    ),
    "POST /v1/inference": Operation(
        "Ask a model",
        {200: EventStream("Each token as it comes, the end, and `[DONE]`.", kind=llm.InferenceEvent)},
        llm.PromptRequest,
        may_end_with=_ASK_WORKER,
    ),
    "DELETE /v1/inference/{id}": Operation(
        "Stop a request to a model",
        {204: Nothing("It is stopped, or was none.")},
        parameters=(Parameter("id", "path", {"type": "string"}, "The `job_id` that it started with.", required=True),),
        may_end_with=_REDIS,
    ),
    **{
        f"POST {path}": Operation(
            f"OpenAI's {what}",
            {200: Json(None, "As the engine answers; an event stream where the request says `stream`.")},
            may_end_with=_ASK_WORKER,
        )
        for path, what in zip(api.OPENAI_PATHS, ("chat", "completions", "embeddings"), strict=True)
    },
    "GET /v1/scaling": Operation(
        "How many workers an autoscaler should have",
        {200: Json(api.Scaling, "What waits, what runs, and how many downloads could be under way.")},
        may_end_with=_REDIS,
    ),
    "GET /v1/settings/bandwidth": Operation(
        "What all workers together may take from the network",
        {200: Json(api.Bandwidth, "The limit.")},
        may_end_with=_REDIS,
    ),
    "PUT /v1/settings/bandwidth": Operation(
        "Change what all workers together may take from the network",
        {200: Json(api.Bandwidth, "The limit as it is now.")},
        api.BandwidthRequest,
        may_end_with=_REDIS,
    ),
    "GET /v1/settings/downloads": Operation(
        "How many downloads may run at once in the whole fleet",
        {200: Json(api.Running, "The limit.")},
        may_end_with=_REDIS,
    ),
    "PUT /v1/settings/downloads": Operation(
        "Change how many downloads may run at once in the whole fleet",
        {200: Json(api.Running, "The limit as it is now.")},
        api.RunningRequest,
        may_end_with=_REDIS,
    ),
    "POST /v1/tickets": Operation(
        "A ticket for streams, for who can send no header",
        {200: Json(api.TicketReply, "The ticket, and when it ends.")},
        api.TicketRequest,
        may_end_with=(errors.InvalidId,),
    ),
    "POST /v1/session": Operation(
        "A cookie for pages of this origin",
        {200: Json(api.SessionReply, "What the session may do, and when it ends; its cookie is in `Set-Cookie`.")},
        by_key_only=True,
    ),
    "DELETE /v1/session": Operation("End a session", {204: Nothing("It is ended, and its cookie gone.")}),
    "GET /v1/health": Operation(
        "The server's version, and a proof of its key",
        {200: Json(api.Health, "It is alive.")},
        parameters=(
            Parameter(
                "nonce",
                "query",
                {"type": "string", "pattern": f"^{NONCE.pattern}$"},
                "Answered with `proof`, an HMAC of it under the key of the server's HIVE_HOME, where it has one.",
            ),
        ),
    ),
    "GET /metrics": Operation(
        "Figures for Prometheus",
        {200: Text(("text/plain", "application/openmetrics-text"), "The format that `Accept` prefers.")},
    ),
    "GET /healthz": Operation("The process lives", {200: Json(api.Alive, "For supervisors.")}),
    "GET /readyz": Operation(
        "Requests can be answered",
        {200: Json(api.Alive, "For load balancers.")},
        may_end_with=(*_REDIS, *_DISK),
    ),
    "GET /api/whoami-v2": Operation(
        "Who the Hub says that a token is",
        {200: Json(None, "As the Hub answers.")},
        may_end_with=(errors.HubUnavailable, *_BUSY),
    ),
    **{
        f"{method} /api/models/{{id}}": Operation(
            f"{what}, as the Hub tells its clients",
            {200: Json(None, "As the Hub answers, or as the disk knows it. Refusals stand in `X-Error-Code`.")},
            parameters=(
                _HUB_REST,
                Parameter("recursive", "query", {"type": "boolean"}, "Of a listing: files of all folders."),
                Parameter("cursor", "query", {"type": "string"}, "Of a listing: as its `Link` has it."),
            ),
            may_end_with=_BUSY,
        )
        for method, what in (("GET", "A model, a revision, a listing, refs"), ("POST", "What is at some paths"))
    },
    "GET /api/{id}": Operation(
        "What the mirror does not have", {404: Json(None, "`X-Error-Code` says so.")}, parameters=(_HUB_REST,)
    ),
    **{
        f"GET /{place}/resolve/{{id}}": Operation(
            "A file of a model, as the Hub hands it out",
            {
                200: Text(("application/octet-stream",), "All of it, while it is fetched where it is not on the disk."),
                206: Text(("application/octet-stream",), "The range that was asked for."),
                304: Nothing("As the `If-None-Match` says."),
                307: Nothing("The model has another name now."),
                412: Nothing("As the `If-Match` says."),
                416: Nothing("The range lies behind the end."),
            },
            parameters=(
                *(Parameter(name, "path", {"type": "string"}, "Of the model.", required=True) for name in names),
                _HUB_REST,
                Parameter("Range", "header", {"type": "string"}, "One range of bytes, such as `bytes=1000-`."),
            ),
            may_end_with=(*_REDIS, *_BUSY, *_DISK, errors.TooManyDownloads, errors.QuotaExceeded),
        )
        for place, names in (("{org}/{name}", ("org", "name")), ("{name}", ("name",)))
    },
    "GET /openapi.json": Operation(
        "This document", {200: Json(None, "OpenAPI 3.1."), 304: Nothing("As the `If-None-Match` says.")}
    ),
    "GET /": Operation(
        "The page", {200: Text(("text/html",), "HTML, the same for all."), 304: Nothing("As the `If-None-Match` says.")}
    ),
    "GET /page/{name}": Operation(
        "A file of the page",
        {
            200: Text(("text/javascript", "text/css", "image/svg+xml", "text/html"), "The file."),
            304: Nothing("As the `If-None-Match` says."),
        },
        parameters=(Parameter("name", "path", {"type": "string"}, "As the page names it.", required=True),),
        may_end_with=(errors.NotFound,),
    ),
    "GET /list": Operation(
        "Downloads and models for a browser without scripts",
        {200: Text(("text/html",), "HTML that asks for itself again.")},
        may_end_with=(*_REDIS, *_DISK),
    ),
    "GET /docs": Operation(
        "This document as a page",
        {200: Text(("text/html",), "HTML."), 304: Nothing("As the `If-None-Match` says.")},
    ),
}
