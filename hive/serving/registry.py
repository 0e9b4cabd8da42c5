"""The registry of LLM workers: a record of each in Redis, kept by a lease, read by every replica.

Problem: a worker is killed without a word, two replicas start the same model at once, and whoever watches a model load
may be connected to a third. The easy way, a table in the memory of one server, is what the system had that hive
replaces. So it is done as downloads are: one script for each change, which also tells the channel; a version orders
what is told; who does not renew its lease is ended by whoever looks next, and those who watch are told.

Tokens do not come here: they go from the worker to the client, and go on while Redis is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from hive.downloads.record import TopicState
from hive.redis.client import RedisClient, database_of
from hive.redis.lua import Script
from hive.serving import scripts
from hive.serving.record import LlmRecord, read_record
from hive.wire import keys
from hive.wire.encoding import encode_json
from hive.wire.events import Message, Version
from hive.wire.llm import LlmState, LoadingError, LoadingEvent, is_final

#: Seconds that the record of a worker that has ended is kept, for those who come late to its stream.
ENDED_TTL_S: Final = 600
#: Seconds that a worker of ours may be silent, and one that registered itself over HTTP.
LEASE_S: Final = 6.0
HTTP_LEASE_S: Final = 60.0
#: The most workers that are listed.
MAX_LISTED: Final = 1000


class Told(NamedTuple):
    """How far loading is, and its place in the order."""

    version: Version
    event: LoadingEvent


class LlmRegistry:
    """The records, over one blocking Redis client; raises redis-py's errors."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client
        self._database = database_of(client)
        self._create = Script(client, scripts.CREATE)
        self._tell = Script(client, scripts.TELL)
        self._end = Script(client, scripts.END)

    def create(self, record: LlmRecord) -> tuple[str, bool]:
        """Make a record, or find the worker that has this model already: its id, and whether it was there."""
        worker_id, outcome = self._create(
            _flat(record.fields()),
            record=keys.llm_worker(record.id),
            workers=keys.LLM_WORKERS,
            flight=keys.llm_flight(record.flight or "-"),
            id=record.id,
            lease_ms=record.lease_ms,
            shares=int(bool(record.flight)),
        )
        return worker_id.decode(), outcome == b"joined"

    def tell(self, worker_id: str, lease_ms: int, fields: Mapping[str, Any], told: Told | None = None) -> str:
        """Renew the lease, with what has changed: `ok`; `stopped` or `failed` where somebody has ended it; `unknown`
        where Redis has no such worker.
        """
        answer = self._tell(
            _flat(fields),
            **self._keys(worker_id),
            id=worker_id,
            lease_ms=lease_ms,
            fence=told.version.fence if told else 0,
            seq=told.version.seq if told else 0,
            terminal=int(is_final(told.event)) if told else 0,
            event=encode_json(told.event) if told else b"",
        )
        return str(answer.decode())

    def end(self, worker_id: str, state: LlmState, error: LoadingError, *, only_late: bool = False) -> bool:
        """End a worker; `error` is told to those who watch it load. Whether this call ended it."""
        ended = self._end(
            **self._keys(worker_id),
            id=worker_id,
            state=state,
            event=encode_json(error),
            ttl_s=ENDED_TTL_S,
            only_late=int(only_late),
        )
        return bool(ended)

    def read(self, worker_id: str) -> LlmRecord | None:
        """One worker, also one that has ended a while ago."""
        return read_record(self._redis.hgetall(keys.llm_worker(worker_id)))

    def alive(self) -> list[LlmRecord]:
        """The workers that have not ended, the oldest first."""
        ids = [name.decode() for name in self._redis.zrange(keys.LLM_WORKERS, 0, MAX_LISTED - 1)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for worker_id in ids:
                pipeline.hgetall(keys.llm_worker(worker_id))
            rows = pipeline.execute()
        found = [record for row in rows if (record := read_record(row)) is not None]
        return sorted(found, key=lambda record: (record.created_ms, record.id))

    def reap(self) -> list[str]:
        """End the workers whose lease has run out; their ids."""
        seconds, microseconds = self._redis.time()
        late = self._redis.zrangebyscore(keys.LLM_WORKERS, "-inf", int(seconds * 1000 + microseconds / 1000) - 1)
        lost = LoadingError(
            code="WORKER_LOST", message="The worker has fallen silent. Load the model again: POST /v1/workers/spawn."
        )
        return [i for name in late if self.end(i := name.decode(), "failed", lost, only_late=True)]

    def read_states(self, worker_ids: Iterable[str]) -> list[TopicState | None]:
        """How far each is loaded, framed for its stream, in one round trip; None where the id is unknown."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for worker_id in worker_ids:
                pipeline.hmget(keys.llm_worker(worker_id), "state", "fence", "seq", "terminal", "event")
            return [_state(row) for row in pipeline.execute()]

    def _keys(self, worker_id: str) -> dict[str, str]:
        return {
            "record": keys.llm_worker(worker_id),
            "workers": keys.LLM_WORKERS,
            "channel": keys.llm_events(worker_id, self._database),
        }


def _state(row: list[bytes | None]) -> TopicState | None:
    state, fence, seq, terminal, event = row
    if state is None or not event:
        return None
    return TopicState(Message(Version(int(fence or 0), int(seq or 0)), terminal == b"1", event), ())


def _flat(fields: Mapping[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
