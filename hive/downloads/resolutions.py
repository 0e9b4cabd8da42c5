"""Request and reply over Redis lists: what a reference means, asked of the resolvers apart from the download slots.

Problem: a typo, an unknown quantisation, a gated model are known within a second when the Hub is asked; but only
workers ask the Hub, and a worker is busy with one download for hours. The easy way, to ask from the HTTP process,
would give that process the Hub's library, the tokens of the workers and a way out. So each pool of workers has one
process more, the resolver (workers/resolver.py), which does nothing else. It is called through one list:

    <download id>            say what this queued download will bring, or end it with the reason why it cannot
    plan:<id>                answer this question; it lies in `hive:plan:{id}`, the answer in `hive:plan:{id}:answer`
    access:<id>              say whether the Hub lets somebody in; question and answer lie in the same places

A call that is lost does no harm: the worker that takes the download resolves it in any case. Questions and answers
expire by themselves; a token in one is sealed.
"""

from __future__ import annotations

import uuid
from typing import Final, Literal, NamedTuple

import msgspec

from hive.downloads import scripts
from hive.downloads.record import Record
from hive.redis.client import RedisClient, database_of
from hive.redis.lua import Script
from hive.store.restricted import ProbeFile
from hive.wire import events, keys
from hive.wire.jobs import Request

#: Calls that may wait for a resolver; the oldest go first when there are more.
MAX_WAITING: Final = 10_000
#: Seconds that a question and its answer are kept: longer than anybody waits.
PLAN_TTL_S: Final = 60
#: Seconds after its last sign of life for which a resolver counts as there.
RESOLVER_TTL_S: Final = 20

#: Digits of what one download may reserve, in bytes; what is longer, or no number, was put there by somebody else.
_MAX_DIGITS: Final = 15

_PLAN: Final = "plan:"
_ACCESS: Final = "access:"


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody wants to know: the request, and its credentials where it has any, sealed for the question `id`."""

    id: str = ""
    request: Request
    sealed: bytes = b""
    request_id: str = ""


class AccessQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the Hub lets somebody have these files: by the token in `sealed`, or anybody."""

    id: str
    places: tuple[ProbeFile, ...]
    sealed: bytes = b""
    request_id: str = ""


#: The answer for one file; `unknown`: the Hub did not say.
Access = Literal["yes", "no", "unknown"]


class ResolutionCall(NamedTuple):
    """What a resolver is called for: one of the three."""

    download_id: str = ""
    plan_id: str = ""
    access_id: str = ""


class Resolutions:
    """Both ends of the list, over one blocking Redis client; raises redis-py's errors."""

    def __init__(self, client: RedisClient) -> None:
        self._redis = client
        self._resolved = Script(client, scripts.RESOLVED)

    # -- the HTTP process --------------------------------------------------------------------------------------------

    def call(self, download_id: str, pipeline: RedisClient) -> None:
        """Have this queued download looked at, in a transaction that has other work too; sends it."""
        self._add(pipeline, download_id)
        pipeline.execute()

    def pipeline(self) -> RedisClient:
        """A transaction, to be used as a context manager."""
        return self._redis.pipeline(transaction=True)

    def ask(self, question: Question | AccessQuestion) -> str | None:
        """Ask; gives the id of the answer to come. None where no resolver is there to give one."""
        if not self._redis.exists(keys.RESOLVERS):
            return None
        plan_id = question.id or str(uuid.uuid4())
        self._redis.set(keys.plan(plan_id), msgspec.json.encode(question), ex=PLAN_TTL_S)
        self._push((_ACCESS if isinstance(question, AccessQuestion) else _PLAN) + plan_id)
        return plan_id

    def answer(self, plan_id: str) -> bytes | None:
        """The answer, as it was given; None while there is none."""
        found: bytes | None = self._redis.get(keys.plan_answer(plan_id))
        return found

    def reserved_bytes(self) -> int:
        """Bytes on the disk that running downloads will still take."""
        return sum(
            int(value) for value in self._redis.hvals(keys.RESERVED) if value.isdigit() and len(value) <= _MAX_DIGITS
        )

    def forget(self, plan_id: str) -> None:
        """Nobody waits for this answer any more."""
        self._redis.delete(keys.plan(plan_id), keys.plan_answer(plan_id))

    # -- a resolver --------------------------------------------------------------------------------------------------

    def alive(self) -> None:
        """Say that a resolver is there."""
        self._redis.set(keys.RESOLVERS, 1, ex=RESOLVER_TTL_S)

    def take(self, timeout_s: int) -> ResolutionCall | None:
        """The next call, waited for; None where none came."""
        found = self._redis.blpop([keys.RESOLVE, keys.RESOLVE_LATER], timeout_s)
        if found is None:
            return None
        text = found[1].decode("ascii", "replace")
        if text.startswith(_PLAN):
            return ResolutionCall(plan_id=text.removeprefix(_PLAN))
        if text.startswith(_ACCESS):
            return ResolutionCall(access_id=text.removeprefix(_ACCESS))
        return ResolutionCall(download_id=text)

    def give_back(self, call: ResolutionCall) -> None:
        """Somebody else, or oneself later, is to answer this call."""
        if call.access_id:
            self._push(_ACCESS + call.access_id)
        else:
            self._push(_PLAN + call.plan_id if call.plan_id else call.download_id)

    def call_later(self, call: ResolutionCall) -> None:
        """Let this call wait behind all that wait in the first line."""
        with self.pipeline() as pipeline:
            pipeline.rpush(keys.RESOLVE_LATER, _PLAN + call.plan_id if call.plan_id else call.download_id)
            pipeline.ltrim(keys.RESOLVE_LATER, -MAX_WAITING, -1)
            pipeline.execute()

    def question(self, plan_id: str) -> Question | None:
        """The question; None where it has expired."""
        found = self._redis.get(keys.plan(plan_id))
        return msgspec.json.decode(found, type=Question) if found else None

    def access_question(self, access_id: str) -> AccessQuestion | None:
        """The same of a question whether the Hub lets somebody in."""
        found = self._redis.get(keys.plan(access_id))
        return msgspec.json.decode(found, type=AccessQuestion) if found else None

    def give_answer(self, plan_id: str, answer: bytes) -> None:
        """Answer a question."""
        self._redis.set(keys.plan_answer(plan_id), answer, ex=PLAN_TTL_S)

    def resolved(self, record: Record, name: str, event: events.Downloading) -> bool:
        """Say what a queued download will bring; False when it is not queued any more, or was changed since it was
        read.
        """
        return bool(
            self._resolved(
                record=keys.record(record.id),
                channel=keys.events(record.id, database_of(self._redis)),
                fence=record.fence,
                name=name,
                event=events.encode(event),
            )
        )

    def _push(self, entry: str) -> None:
        with self.pipeline() as pipeline:
            self._add(pipeline, entry)
            pipeline.execute()

    @staticmethod
    def _add(pipeline: RedisClient, entry: str) -> None:
        pipeline.rpush(keys.RESOLVE, entry)
        pipeline.ltrim(keys.RESOLVE, -MAX_WAITING, -1)
