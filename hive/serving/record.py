"""The record of an LLM worker as it stands in Redis, and how people see it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from hive.wire.llm import SERVING, LlmState, LlmWorker
from hive.wire.refs import RefError, parse_ref


class LlmRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One LLM worker. Times are unix milliseconds, 0 where they have not come; sizes bytes."""

    id: str
    url: str = ""
    state: LlmState = "queued"
    #: As it was asked for; as the list of models has it; where its file is, "" while that is not on disk.
    model_ref: str = ""
    model_id: str = ""
    path: str = ""
    #: What tells that two requests mean the same worker; "" where it stands for itself.
    flight: str = ""
    backend: str = "cpu"
    device: int = 0
    context: int = 0
    slots_total: int = 1
    slots_busy: int = 0
    idle_s: float = 0.0
    pid: int = 0
    #: The machine's process that started it; "" where it came by itself.
    host: str = ""
    download_id: str = ""
    #: Bytes of its machine's memory that it takes by the reckoning, and those of them that count as used there already.
    memory_bytes: int = 0
    memory_used: int = 0
    failed_health_checks: int = 0
    restart_count: int = 0
    lease_ms: int = 0
    fence: int = 0
    seq: int = 0
    terminal: int = 0
    event: str = ""
    created_ms: int = 0
    activity_ms: int = 0
    heartbeat_ms: int = 0

    @property
    def machine(self) -> str:
        """The name of the machine that it is on; "" for one that came by itself."""
        return self.host.rsplit(".", 2)[0]

    @property
    def is_serving(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state in SERVING

    def is_of(self, model: str) -> bool:
        """Whether this name means its model: as it was asked for, as the list has it, or as another spelling."""
        return model in (self.id, self.model_ref, self.model_id) or canonical(model) in (
            canonical(self.model_ref),
            canonical(self.model_id),
        )

    def shown(self) -> LlmWorker:
        """As the API has it."""
        return LlmWorker(
            id=self.id,
            url=self.url,
            model_ref=self.model_ref,
            backend=self.backend,
            device=self.device,
            state=self.state,
            last_activity=iso(self.activity_ms),
            slots_total=self.slots_total,
            slots_available=max(self.slots_total - self.slots_busy, 0),
            failed_health_checks=self.failed_health_checks,
            pid=self.pid or None,
            restart_count=self.restart_count,
            last_heartbeat=iso(self.heartbeat_ms),
            model_id=self.model_id or None,
            download_id=self.download_id or None,
            context=self.context or None,
        )

    def fields(self) -> dict[str, Any]:
        """All of it, as a hash has it."""
        return msgspec.structs.asdict(self)


def read_record(fields: Mapping[bytes, bytes]) -> LlmRecord | None:
    """The record in a hash as Redis gives it; None where there is none, or one that nobody can read."""
    try:
        text = {name.decode(): value.decode() for name, value in fields.items()}
        return msgspec.convert(text, LlmRecord, strict=False) if text else None
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None


def canonical(model: str) -> str:
    """One spelling of a reference; what is none stays as it is."""
    try:
        return str(parse_ref(model))
    except RefError:
        return model


def flight_key(model: str, backend: str, device: int) -> str:
    """What two requests for the same model, on the same backend and device, have in common."""
    return hashlib.sha256(f"{canonical(model)}\n{backend}\n{device}".encode()).hexdigest()[:32]


def iso(ms: int) -> str:
    """A time as ISO 8601 writes it, in UTC; "" for none."""
    return (
        datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if ms else ""
    )
