"""Models in memory: what is asked of LLM workers, what they answer, and the events of loading and of inference.

The words are those of the system that hive replaces; its clients decode the events by `stage` and by `type`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from hive.wire.api import MAX_ID_CHARS
from hive.wire.encoding import encode_json
from hive.wire.jobs import MAX_CONTEXT, MAX_SLOTS, MIN_CONTEXT
from hive.wire.refs import MAX_REF_CHARS

#: What may calculate.
Backend = Literal["cpu", "cuda", "metal"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
#: The life of an LLM worker.
LlmState = Literal["queued", "loading", "idle", "busy", "draining", "stopped", "failed"]
#: Those in which requests may be sent to it; after which nothing follows.
SERVING: Final = frozenset({"idle", "busy"})
ENDED: Final = frozenset({"stopped", "failed"})

#: The largest number of a device.
MAX_DEVICE: Final = 63
#: Characters of a worker's address.
MAX_URL_CHARS: Final = 512

_Ref = Annotated[str, Meta(min_length=1, max_length=MAX_REF_CHARS)]
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARS, pattern=r"^[A-Za-z0-9._:-]+$")]
_Device = Annotated[int, Meta(ge=0, le=MAX_DEVICE)]


class SpawnRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of `POST /v1/workers/spawn`: which model is to be loaded, and where. `model` is `model_ref` by another
    name; `model_path` a file in the store in its place.
    """

    model_ref: _Ref | None = None
    model: _Ref | None = None
    backend: Backend = "cpu"
    device: _Device = 0
    model_path: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    context: Annotated[int, Meta(ge=MIN_CONTEXT, le=MAX_CONTEXT)] | None = None
    slots: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] | None = None
    idle_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None


class Spawned(msgspec.Struct, frozen=True):
    """The answer: the worker, where it listens. `download_id` where the model is downloaded first; `joined` where the
    worker was there already.
    """

    worker_id: str
    url: str
    state: LlmState
    download_id: str | UnsetType = UNSET
    joined: bool | UnsetType = UNSET


class ReadyRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `POST /v1/workers/ready`: a worker has its model in memory."""

    worker_id: _Id
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS)]
    model_ref: _Ref
    backend: Backend = "cpu"
    device: _Device = 0
    slots_total: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] = 1


class HeartbeatRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `POST /v1/heartbeat`."""

    worker_id: _Id
    timestamp: str | float | None = None
    health_status: Literal["healthy", "degraded"] = "healthy"


class Said(msgspec.Struct, frozen=True):
    """An answer that says only that something was done."""

    message: str


class LlmWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One LLM worker in `GET /v1/workers/list`. `last_activity` and `last_heartbeat` are ISO 8601."""

    id: str
    url: str
    model_ref: str
    backend: str
    device: int
    state: LlmState
    last_activity: str
    slots_total: int
    slots_available: int
    failed_health_checks: int
    pid: int | None
    restart_count: int
    last_heartbeat: str
    model_id: str | None = None
    download_id: str | None = None
    context: int | None = None


class LlmWorkers(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/workers/list`."""

    workers: tuple[LlmWorker, ...]


# -- loading -----------------------------------------------------------------------------------------------------------


class Fetching(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="downloading"):
    """The model is downloaded first; as in the download's own stream."""

    bytes_downloaded: int
    bytes_total: int
    speed_mbps: float
    download_id: str = ""
    status: str | None = None


class LoadingToVram(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="loading_to_vram"
):
    """So many layers are in memory; `vram_mb` is what they take, 10^6 bytes, in the memory of the machine where the
    backend is the cpu.
    """

    layers_loaded: int
    layers_total: int
    vram_mb: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag_field="stage", tag="ready"):
    """The end, well: the model answers."""


class LoadingError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="stage", tag="error"):
    """The end, otherwise. `code` is one of hive.errors; `message` says what to do."""

    code: str
    message: str
    details: dict[str, Any] | None = None


LoadingEvent = Fetching | LoadingToVram | Ready | LoadingError


def is_final(event: LoadingEvent) -> bool:
    """Whether nothing follows this event of loading."""
    return isinstance(event, Ready | LoadingError)


class BackendInfo(msgspec.Struct, frozen=True):
    """A backend, and whether a machine has it."""

    id: Backend
    available: bool


class Backends(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/backends/list`."""

    backends: tuple[BackendInfo, ...]


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A device of a machine that runs models. Bytes are 0 where nobody knows them."""

    host: str
    engine: str
    backend: str
    index: int
    name: str
    memory_bytes: int
    available_bytes: int


class Devices(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/devices`."""

    devices: tuple[DeviceInfo, ...]


class HostMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a machine that runs models, and what of it models may take. Bytes."""

    host: str
    ram_total: int
    ram_available: int
    ram_for_models: int


class Resources(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/resources`."""

    hosts: tuple[HostMemory, ...]


# -- inference ---------------------------------------------------------------------------------------------------------

#: The limits of `POST /v1/inference`.
MAX_PROMPT_CHARS: Final = 32_768
MAX_TOKENS: Final = 2_048
DEFAULT_TOKENS: Final = 20
DEFAULT_TEMPERATURE: Final = 0.7
MAX_TEMPERATURE: Final = 2.0
MAX_TOP_K: Final = 1_000_000
MAX_REPETITION_PENALTY: Final = 2.0
MAX_STOPS: Final = 4
MAX_STOP_CHARS: Final = 100
MAX_SEED: Final = (1 << 32) - 1

_Share = Annotated[float, Meta(ge=0, le=1)]
_Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]


class PromptRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `POST /v1/inference`. What is wrong with it is told all at once. Fields that are not known are passed
    over.
    """

    prompt: Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS)]
    model: str | None = None
    job_id: _Id | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = DEFAULT_TOKENS
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] = DEFAULT_TEMPERATURE
    stream: bool = True
    top_p: _Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=MAX_TOP_K)] | None = None
    min_p: _Share | None = None
    repetition_penalty: Annotated[float, Meta(ge=0, le=MAX_REPETITION_PENALTY)] | None = None
    stop: _Stop | Annotated[tuple[_Stop, ...], Meta(max_length=MAX_STOPS)] = ()
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None


StopReason = Literal["MAX_TOKENS", "EOS", "STOP_SEQUENCE"]


class InferenceStarted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="started"):
    """The slot is taken."""

    job_id: str
    model: str
    started_at: str


class Token(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="token"):
    """One token: `t` is its text, `i` counts from 0. All `t` joined are the text. A token that ends within a character
    has no text; the one that completes it has all. `token` and `index` are the older names.
    """

    t: str
    i: int
    token: str
    index: int


class InferenceMetrics(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="metrics"):
    """How fast it goes."""

    tokens_per_sec: float
    vram_bytes: int


class InferenceEnd(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="end"):
    """The end, well."""

    tokens_out: int
    decode_time_ms: int
    stop_reason: StopReason
    stop_sequence_matched: str | UnsetType = UNSET
    done: bool
    total_tokens: int
    duration_ms: int


class InferenceError(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The end, otherwise."""

    code: str
    message: str


InferenceEvent = InferenceStarted | Token | InferenceMetrics | InferenceEnd | InferenceError


def data_frame(event: Any) -> bytes:
    """An event as one bare `data:` line: clients cut at the empty line and take what begins with `data: `."""
    return b"data: %b\n\n" % encode_json(event)
