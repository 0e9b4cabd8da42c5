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
from typing import Final, get_args

from hive import errors, serving_errors
from hive.api.downloads import DEFAULT_LIMIT, MAX_LIMIT
from hive.api.openapi.operation import (
    ASK,
    ASK_MODEL,
    ASK_WORKER,
    BUSY,
    CHANGE,
    DISK,
    DOWNLOAD,
    EVENTS,
    FIND,
    HUB_REST,
    LAST_EVENT_ID,
    LINES,
    MADE,
    MODEL,
    PARTS,
    RANGE,
    REDIS,
    RESOLVE,
    UUID,
    VERSION,
    WORKER_ID,
    EventStream,
    Json,
    Lines,
    Nothing,
    Operation,
    Parameter,
    Text,
    changed,
    tree,
)
from hive.streams.longpoll import MAX_WAIT_S
from hive.streams.many import MAX_IDS
from hive.wire import api, llm, maintenance
from hive.wire.events import ActiveStatus, TerminalStatus
from hive.wire.proof import NONCE
from hive.wire.refs import MAX_REF_CHARS

OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /v1/models/download": Operation(
        "Start a download, or join the one under way", MADE, api.DownloadRequest, may_end_with=ASK
    ),
    "POST /v1/models/plan": Operation(
        "What a download would bring",
        {200: Json(api.DownloadPlan, "Files, sizes, digests, what is missing, and whether it fits.")},
        api.PlanRequest,
        may_end_with=(*ASK, *RESOLVE, errors.WorkersSilent),
    ),
    f"GET {api.PROGRESS_PATH}": Operation(
        "Watch a download",
        {
            200: EventStream(EVENTS),
            204: Nothing("The Last-Event-ID is the end's: there is nothing more. This stops an `EventSource`."),
        },
        parameters=(
            Parameter("id", "query", UUID, "Which download.", required=True),
            LAST_EVENT_ID,
            Parameter("last_event_id", "query", VERSION, "The same, for who cannot set headers."),
        ),
        may_end_with=(errors.DownloadNotFound, errors.TooManyStreams, *REDIS, *BUSY),
    ),
    f"GET {api.MANY_PATH}": Operation(
        "Watch many downloads in one stream",
        {
            200: EventStream(
                f"{EVENTS} First comes the present state of each, then every change. A stream for named downloads "
                "ends with `[DONE]` when all have ended; one for all, or all active ones, goes on.",
                of_many=True,
            )
        },
        parameters=(
            Parameter(
                "id",
                "query",
                {"type": "array", "items": UUID, "maxItems": MAX_IDS},
                "Which downloads, each as an `id` of its own; none: all there are, and new ones as they come.",
            ),
            Parameter("status", "query", {"enum": ["active"]}, "Those alone that have not ended; not beside `id`."),
            LAST_EVENT_ID,
        ),
        may_end_with=(errors.DownloadNotFound, errors.TooManyStreams, *REDIS, *BUSY),
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
        may_end_with=REDIS,
    ),
    "GET /v1/downloads/{id}": Operation(
        "One download",
        {200: Json(api.Download, "How it stands.")},
        parameters=(
            DOWNLOAD,
            Parameter(
                "wait",
                "query",
                {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,3})?s?$"},
                f"A long poll: answer when it has ended, or after so many seconds, such as `30s`; {MAX_WAIT_S:g} s at "
                "most.",
            ),
        ),
        may_end_with=FIND,
    ),
    "DELETE /v1/downloads/{id}": Operation(
        "Cancel a download",
        changed("It has ended, or ends within two seconds."),
        parameters=(
            DOWNLOAD,
            Parameter("purge", "query", {"type": "boolean", "default": False}, "Its partial files go too."),
        ),
        may_end_with=(*CHANGE, *DISK),
    ),
    "POST /v1/downloads/{id}/pause": Operation(
        "Set a download aside",
        changed("It is paused, or will be within two seconds."),
        parameters=(DOWNLOAD,),
        may_end_with=CHANGE,
    ),
    "POST /v1/downloads/{id}/resume": Operation(
        "Let a paused download go on",
        changed("It waits for a worker again."),
        parameters=(DOWNLOAD,),
        may_end_with=CHANGE,
    ),
    "POST /v1/downloads/{id}/retry": Operation(
        "Try again what failed or was cancelled",
        MADE,
        api.RetryRequest,
        body_optional=True,
        parameters=(DOWNLOAD,),
        may_end_with=(*FIND, *ASK, errors.Conflict),
    ),
    "PUT /v1/downloads/{id}/priority": Operation(
        "Change how soon a download gets a worker",
        changed("Its priority is changed."),
        api.PriorityRequest,
        parameters=(DOWNLOAD,),
        may_end_with=CHANGE,
    ),
    "PUT /v1/downloads/{id}/place": Operation(
        "Move a waiting download to before or behind another one",
        changed("It has its place, and the other's priority."),
        api.PlaceRequest,
        parameters=(DOWNLOAD,),
        may_end_with=CHANGE,
    ),
    "GET /v1/partials": Operation(
        "Files that have not come whole",
        {200: Json(api.Listing[api.PartialFile], "All of the store, those that take most first.")},
        may_end_with=(*REDIS, *DISK),
    ),
    "GET /v1/models": Operation(
        "Models on disk", {200: Json(api.Listing[api.Model], "All of them, by id.")}, may_end_with=DISK
    ),
    "GET /v1/models/{id}": Operation(
        "One model on disk",
        {200: Json(api.Model, "The model.")},
        parameters=(MODEL,),
        may_end_with=(errors.ModelNotOnDisk, *DISK),
    ),
    "DELETE /v1/models/{id}": Operation(
        "Delete a model from the disk",
        {200: Json(api.Deleted, "The model is gone.")},
        parameters=(MODEL,),
        may_end_with=(errors.ModelNotOnDisk, errors.ModelInUse, *REDIS, *DISK),
    ),
    "GET /v1/blobs/{digest}": Operation(
        "A content by its digest",
        {
            200: Text(("application/octet-stream",), "All of it. Several ranges at once are answered so, too."),
            **PARTS,
        },
        parameters=(
            Parameter(
                "digest",
                "path",
                {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
                "As files list it.",
                required=True,
            ),
            RANGE,
        ),
        may_end_with=(errors.NotFound, *BUSY, *DISK),
    ),
    "POST /v1/models/verify": Operation(
        "Compare what is on disk with its digests",
        {200: Lines(maintenance.VerificationLine, LINES)},
        api.VerifyRequest,
        body_optional=True,
        may_end_with=(errors.ModelNotOnDisk, errors.Conflict, *DISK),
    ),
    "POST /v1/gc": Operation(
        "Remove from disk what nothing refers to",
        {200: Lines(maintenance.CollectionLine, LINES)},
        api.CollectRequest,
        body_optional=True,
        may_end_with=(errors.Conflict, *DISK),
    ),
    "GET /v1/workers": Operation(
        "Workers that are alive", {200: Json(api.Listing[api.Worker], "All of them.")}, may_end_with=REDIS
    ),
    "POST /v1/workers/spawn": Operation(
        "Load a model into memory",
        {200: Json(llm.Spawned, "The worker, and where it listens; watch it at GET /v1/loading/progress.")},
        llm.SpawnRequest,
        may_end_with=(
            *ASK_MODEL,
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
        may_end_with=(errors.Conflict, errors.UnsafeUrl, *REDIS),
    ),
    "POST /v1/heartbeat": Operation(
        "A worker lives",
        {200: Json(llm.Said, "It is noted.")},
        llm.HeartbeatRequest,
        may_end_with=(errors.LlmWorkerNotFound, *REDIS),
    ),
    "GET /v1/workers/list": Operation(
        "The workers that have a model in memory",
        {200: Json(llm.LlmWorkers, "Those that load one too.")},
        may_end_with=REDIS,
    ),
    "DELETE /v1/workers/{id}": Operation(
        "End a worker",
        {200: Json(llm.Said, "What it answers may end; then its memory goes back.")},
        parameters=(WORKER_ID,),
        may_end_with=(errors.LlmWorkerNotFound, *REDIS),
    ),
    "GET /v1/backends/list": Operation(
        "What may calculate", {200: Json(llm.Backends, "Each, and whether a machine has it.")}, may_end_with=REDIS
    ),
    "GET /v1/devices": Operation(
        "The devices of machines that run models", {200: Json(llm.Devices, "Of all machines.")}, may_end_with=REDIS
    ),
    "GET /v1/resources": Operation(
        "The memory of machines that run models", {200: Json(llm.Resources, "Of all machines.")}, may_end_with=REDIS
    ),
    "GET /v1/loading/progress": Operation(
        "Watch a model being loaded",
        {200: EventStream("The present state at once, what changes, the end, and `[DONE]`.", kind=llm.LoadingEvent)},
        parameters=(
            Parameter("id", "query", {"type": "string"}, "The worker's, from POST /v1/workers/spawn.", required=True),
        ),
        may_end_with=(errors.LlmWorkerNotFound, errors.TooManyStreams, *REDIS),
    ),
    "POST /v1/inference": Operation(
        "Ask a model",
        {200: EventStream("Each token as it comes, the end, and `[DONE]`.", kind=llm.InferenceEvent)},
        llm.PromptRequest,
        may_end_with=ASK_WORKER,
    ),
    "DELETE /v1/inference/{id}": Operation(
        "Stop a request to a model",
        {204: Nothing("It is stopped, or was none.")},
        parameters=(Parameter("id", "path", {"type": "string"}, "The `job_id` that it started with.", required=True),),
        may_end_with=REDIS,
    ),
    **{
        f"POST {path}": Operation(
            f"OpenAI's {what}",
            {200: Json(None, "As the engine answers; an event stream where the request says `stream`.")},
            may_end_with=ASK_WORKER,
        )
        for path, what in zip(api.OPENAI_PATHS, ("chat", "completions", "embeddings"), strict=True)
    },
    "GET /v1/scaling": Operation(
        "How many workers an autoscaler should have",
        {200: Json(api.Scaling, "What waits, what runs, and how many downloads could be under way.")},
        may_end_with=REDIS,
    ),
    "GET /v1/settings/bandwidth": Operation(
        "What all workers together may take from the network",
        {200: Json(api.Bandwidth, "The limit.")},
        may_end_with=REDIS,
    ),
    "PUT /v1/settings/bandwidth": Operation(
        "Change what all workers together may take from the network",
        {200: Json(api.Bandwidth, "The limit as it is now.")},
        api.BandwidthRequest,
        may_end_with=REDIS,
    ),
    "GET /v1/settings/downloads": Operation(
        "How many downloads may run at once in the whole fleet",
        {200: Json(api.Running, "The limit.")},
        may_end_with=REDIS,
    ),
    "PUT /v1/settings/downloads": Operation(
        "Change how many downloads may run at once in the whole fleet",
        {200: Json(api.Running, "The limit as it is now.")},
        api.RunningRequest,
        may_end_with=REDIS,
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
        may_end_with=(*REDIS, *DISK),
    ),
    "GET /api/whoami-v2": Operation(
        "Who the Hub says that a token is",
        {200: Json(None, "As the Hub answers.")},
        may_end_with=(errors.HubUnavailable, *BUSY),
    ),
    **{
        f"{method} /api/{kind}/{{id}}": Operation(
            f"{what}, as the Hub tells its clients",
            {200: Json(None, "As the Hub answers, or as the disk knows it. Refusals stand in `X-Error-Code`.")},
            parameters=(
                HUB_REST,
                Parameter("recursive", "query", {"type": "boolean"}, "Of a listing: files of all folders."),
                Parameter("cursor", "query", {"type": "string"}, "Of a listing: as its `Link` has it."),
            ),
            may_end_with=BUSY,
        )
        for kind, repo in (("models", "model"), ("datasets", "data set"), ("spaces", "Space"))
        for method, what in (
            ("GET", f"A {repo}, a revision, a listing, refs"),
            ("POST", f"What is at some paths of a {repo}"),
        )
    },
    "GET /v2/{org}/{name}/manifests/{tag}": Operation(
        "Which file of a GGUF repository a tag means, as older llama.cpp asks for it",
        {200: Json(None, "`ggufFile`, and `mmprojFile` where there is one. Refusals stand in `X-Error-Code`.")},
        parameters=tuple(
            Parameter(name, "path", {"type": "string"}, what, required=True)
            for name, what in (
                ("org", "Of the model."),
                ("name", "Of the model."),
                ("tag", "A quantisation, or `latest`."),
            )
        ),
        may_end_with=BUSY,
    ),
    "GET /api/{id}": Operation(
        "What the mirror does not have", {404: Json(None, "`X-Error-Code` says so.")}, parameters=(HUB_REST,)
    ),
    **{
        f"GET /{place}/resolve/{{id}}": Operation(
            f"A file of a {repo}, as the Hub hands it out",
            {
                200: Text(("application/octet-stream",), "All of it, while it is fetched where it is not on the disk."),
                **PARTS,
                307: Nothing("It has another name now."),
            },
            parameters=(
                *(Parameter(name, "path", {"type": "string"}, f"Of the {repo}.", required=True) for name in names),
                HUB_REST,
                RANGE,
            ),
            may_end_with=(*REDIS, *BUSY, *DISK, errors.TooManyDownloads, errors.QuotaExceeded),
        )
        for place, names, repo in (
            ("{org}/{name}", ("org", "name"), "model"),
            ("{name}", ("name",), "model"),
            ("datasets/{org}/{name}", ("org", "name"), "data set"),
            ("spaces/{org}/{name}", ("org", "name"), "Space"),
        )
    },
    **{
        f"{method} /api/{name}": Operation(
            f"Ollama's {what}",
            {
                200: Json(None, "As Ollama answers its clients; lines of JSON where it streams."),
                **{status: Json(None, 'As Ollama says it: `{"error": "text"}`.') for status in failures},
            },
        )
        for method, name, what, failures in (
            ("GET", "version", "version", ()),
            ("GET", "tags", "list of models on the disk", (503,)),
            ("GET", "ps", "list of models in memory", (503,)),
            ("POST", "show", "details of a model", (400, 404, 503)),
            ("POST", "pull", "pull", (400, 404, 429, 502, 503)),
            ("DELETE", "delete", "removal of a model", (400, 404, 409, 503)),
            ("POST", "generate", "answer to a prompt", (400, 404, 500, 502, 503, 504, 507)),
            ("POST", "chat", "answer in a conversation", (400, 404, 500, 502, 503, 504, 507)),
            ("POST", "embed", "vectors of texts", (400, 404, 500, 502, 503, 504, 507)),
            ("POST", "embeddings", "vector of a text", (400, 404, 500, 502, 503, 504, 507)),
        )
    },
    "POST /api/{name}": Operation(
        "What of Ollama's API is not here",
        {501: Json(None, '`{"error": "text"}`.')},
        parameters=(Parameter("name", "path", {"type": "string"}, "Such as `create`.", required=True),),
    ),
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
        may_end_with=(*REDIS, *DISK),
    ),
    "GET /docs": Operation(
        "This document as a page",
        {200: Text(("text/html",), "HTML."), 304: Nothing("As the `If-None-Match` says.")},
    ),
}
