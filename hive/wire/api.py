"""The schema of the HTTP API: the bodies that requests bring and the answers they get, as typed records.

Both sides use these: the routes encode what the client decodes, so that neither can say what the other does not know.
The order of the fields is that of the JSON, which does not change. Times are unix seconds, sizes bytes. What a newer
server adds to an answer is ignored, so an older client goes on working; what a request has too much is refused, for it
is mostly a word that was misspelt.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hive.wire.events import Event
from hive.wire.jobs import MAX_RUNNING, MIN_BYTES_PER_SECOND, Priority
from hive.wire.refs import MAX_REF_CHARS

T = TypeVar("T")

#: Where a download is watched, and where many are.
PROGRESS_PATH: Final = "/v1/models/download/progress"
MANY_PATH: Final = "/v1/downloads/progress"
#: Where the loading of a model is watched, what is asked of a model, and what is passed to the engine as it comes, in
#: the forms of OpenAI's API.
LOADING_PATH: Final = "/v1/loading/progress"
INFERENCE_PATH: Final = "/v1/inference"
OPENAI_PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
#: The same in Ollama's forms, and all of Ollama's addresses: those too that hive refuses.
OLLAMA_PROMPT_PATHS: Final = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
_OLLAMA_NAMES: Final = ("version", "tags", "ps", "show", "pull", "delete", "create", "copy", "push")
OLLAMA_PATHS: Final = frozenset([*OLLAMA_PROMPT_PATHS, *(f"/api/{name}" for name in _OLLAMA_NAMES)])
#: Addresses of Ollama's clients and of the Hub's, which show an error's `error` as text.
_TEXT_ERRORS: Final = re.compile(r"/(?:api|v2)/.*|/(?!v1/)[^/]+(?:/[^/]+){0,2}/resolve/.*", re.DOTALL)
#: Characters of what names a worker of a model, or a request to one.
MAX_ID_CHARS: Final = 128
#: The header by which whoever asks for models on the disk shows the Hub's token.
HUB_TOKEN_HEADER: Final = "x-hf-token"  # noqa: S105 - a name
#: Downloads that a ticket may name.
MAX_TICKET_IDS: Final = 100
#: Seconds of a ticket's life: unless asked otherwise, and at most.
TICKET_TTL_S: Final = 300
MAX_TICKET_TTL_S: Final = 3600
#: Characters of a webhook's URL.
MAX_WEBHOOK_URL_CHARS: Final = 2048
#: Models that one verification may name.
MAX_MODELS: Final = 1000

# -- what requests bring ---------------------------------------------------------------------------------------------

#: A token of the Hub.
Token = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[\x21-\x7e]+$")]
#: Where the end of a download is to be told.
WebhookUrl = Annotated[str, Meta(min_length=1, max_length=MAX_WEBHOOK_URL_CHARS)]
#: A limit of the bandwidth; at most 2**53, which every JSON reader holds exactly.
BytesPerSecond = Annotated[int, Meta(ge=MIN_BYTES_PER_SECOND, le=1 << 53)]
_Globs = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=64)]
_ModelIds = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=MAX_MODELS)]


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/models/plan`: what is asked for."""

    model_ref: Annotated[str, Meta(min_length=1, max_length=MAX_REF_CHARS)]
    revision: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    include: _Globs = ()
    exclude: _Globs = ()
    update: bool = False
    hf_token: Token | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")] | None = None
    name: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


class TicketRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/tickets`: which downloads a ticket is for, and for how many seconds."""

    ids: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=MAX_TICKET_IDS)] = ()
    all: bool = False
    ttl: Annotated[int, Meta(ge=1, le=MAX_TICKET_TTL_S)] = TICKET_TTL_S


class DownloadRequest(PlanRequest, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/models/download`: what is asked for, and how it is to come."""

    max_bytes_per_second: BytesPerSecond | None = None
    priority: Priority = "normal"
    webhook_url: WebhookUrl | None = None


class RetryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a retry; may be left out. The first request's token and webhook are not kept."""

    hf_token: Token | None = None
    webhook_url: WebhookUrl | None = None


class PriorityRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/downloads/{id}/priority`."""

    priority: Priority


class PlaceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `PUT /v1/downloads/{id}/place`: one of the two, the id of another download that waits."""

    before: Annotated[str, Meta(max_length=64)] | None = None
    behind: Annotated[str, Meta(max_length=64)] | None = None


class BandwidthRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/settings/bandwidth`; null: no limit."""

    bytes_per_second: BytesPerSecond | None


class RunningRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PUT /v1/settings/downloads`; null: no limit."""

    max_running: Annotated[int, Meta(ge=1, le=MAX_RUNNING)] | None


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/models/verify`; none: every model. `fetch`: fetch what is wrong again."""

    models: _ModelIds = ()
    fetch: bool = False


class CollectRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/gc`. `older_than_seconds` in place of HIVE_PARTIAL_TTL_S."""

    dry_run: bool = False
    older_than_seconds: Annotated[float, Meta(ge=0, le=1e10)] | None = None


# -- what is answered ------------------------------------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    """The answer to a request for a model.

    `local_path` is there where the model is on disk; `joined` where it was under way; `webhook_secret` where a
    webhook was asked for: what its receiver checks signatures with.
    """

    download_id: str
    local_path: str | None = None
    joined: bool = False
    webhook_secret: str | UnsetType = UNSET


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a plan: `digest` is `sha256:<hex>` or `git-sha1:<hex>`; size and digest are None where only its
    server knows them.
    """

    path: str
    size: int | None = None
    digest: str | None = None
    on_disk: bool = False


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that downloads may take of the store's disk now, and whether those of a plan fit in."""

    available: int
    enough: bool


class PlanVariant(msgspec.Struct, frozen=True, kw_only=True):
    """One quantisation of a repository: what `:NAME` behind its reference brings, without a projector; bytes."""

    name: str
    size: int
    files: tuple[str, ...] = ()


class DownloadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a download would bring, and how much of it is not on the disk; None where only a server knows the size.

    `local_path` is there where nothing is missing. `room` is None where the disk does not say. `variants` are the
    quantisations that could be had in place of this one; nothing for what has none. `license` is what its authors call
    it at the Hub, None where that was not asked or does not say.
    """

    object: str = "plan"
    model_ref: str
    name: str
    repo: str | None = None
    commit: str | None = None
    variant: str | None = None
    local_path: str | None = None
    files: tuple[PlanFile, ...] = ()
    bytes_total: int | None = None
    bytes_missing: int | None = None
    room: Room | None = None
    variants: tuple[PlanVariant, ...] = ()
    license: str | None = None


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A download: what was asked for, how it stands, and its latest event (None before the first)."""

    id: str
    object: str = "download"
    model_ref: str
    status: str
    local_path: str | None = None
    priority: str = "normal"
    attempt: int | None = None
    retry_of: str | None = None
    worker: str | None = None
    created_at: float | None = None
    started_at: float | None = None
    updated_at: float | None = None
    ended_at: float | None = None
    duration_seconds: float | None = None
    active_seconds: float = 0.0
    bytes_received: int = 0
    bytes_refetched: int = 0
    average_bytes_per_second: int | None = None
    reason: str | None = None
    #: Once it was resolved: what it is called.
    name: str | UnsetType = UNSET
    #: While it waits: how many are before it, and what it waits for.
    ahead: int | UnsetType = UNSET
    waiting_for: str | UnsetType = UNSET
    #: By which door it came, where that was not this API.
    origin: str | UnsetType = UNSET
    progress: Event | None = None


class ModelFile(msgspec.Struct, frozen=True):
    """One file of a model: its path inside the repository and its size in bytes."""

    path: str
    size: int = 0


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the store. `path` is what a program opens: a file, the first shard, or the snapshot's folder.

    `revision` is the commit and `refs` the branches and tags that stand for it; `size` the sum of the files, where a
    content that two names share counts once; `incomplete` is there, and True, where shards are missing.
    """

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = ""
    size: int = 0
    files: tuple[ModelFile, ...] = ()
    path: str = ""
    revision: str | None = None
    refs: tuple[str, ...] = ()
    variant: str | None = None
    incomplete: bool | UnsetType = UNSET

    @property
    def complete(self) -> bool:
        """Whether all shards are there."""
        return self.incomplete is not True


class Deleted(msgspec.Struct, frozen=True, kw_only=True):
    """A model was deleted; `freed_bytes` is what the disk got back, less than its size where files are shared."""

    id: str
    object: str = "model"
    deleted: bool = True
    freed_bytes: int = 0


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is alive: where it runs and which download it has in hand."""

    name: str
    object: str = "worker"
    host: str = ""
    pid: int = 0
    version: str = ""
    state: str = ""
    download_id: str | None = None
    started_at: float | None = None
    seen_at: float | None = None


class TicketReply(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket, for `?ticket=` of a stream. `expires_at` is in Unix seconds."""

    ticket: str
    expires_at: float

    def __repr__(self) -> str:
        return f"TicketReply(***, expires_at={self.expires_at})"


class SessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a session may do, and until when (Unix seconds)."""

    key_id: str
    scopes: tuple[str, ...]
    expires_at: float


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a supervisor or load balancer: `alive`, or `ready`."""

    status: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself; `proof` answers a nonce."""

    status: str
    version: str = ""
    api_version: str = ""
    proof: str | UnsetType = UNSET


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """What all workers together may take from the network, in bytes per second; None: no limit."""

    bytes_per_second: int | None


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """What an autoscaler needs: downloads that wait and that run, and how many workers (downloads at once) would leave
    none waiting that may run.
    """

    queued: int
    running: int
    wanted_workers: int


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """How many downloads may run at once in the whole fleet; None: no limit."""

    max_running: int | None


class PartialFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the store that has not come whole, or that was wrong and set aside; `path` is relative to the store."""

    path: str
    kind: Literal["partial", "set_aside"]
    bytes: int
    modified_at: float
    in_use: bool
    model_ref: str | None = None


class Listing(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A list that is answered whole."""

    object: str = "list"
    data: tuple[T, ...] = ()


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next_cursor` asks for the next one and is None on the last."""

    object: str = "list"
    data: tuple[T, ...] = ()
    next_cursor: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What stands under `error` in every error: `code` is one of hive.errors."""

    code: str
    message: str = ""
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    #: Under which the log has more.
    request_id: str = ""
    #: For OpenAI's clients: the kind of the error by its status (`error_type`); a field that no error of hive has.
    type: str = "invalid_request_error"
    param: None = None


def error_type(status: int) -> str:
    """What OpenAI calls an error of this status."""
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


class ErrorReply(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: ErrorBody


def tells_errors_as_text(path: str) -> bool:
    """Whether an error at this address is `{"error": "message", "code"}`."""
    return _TEXT_ERRORS.fullmatch(path) is not None
