"""The resolver: says what references mean, beside the workers and never in their place.

One process for each pool, with a few threads, because all it does is wait for the Hub. What it finds of a queued
download goes into its record and its stream: name, size, files; what can never be had ends there and then, within
seconds, however long the queue is. It also answers `POST /v1/models/plan`.

A plain URL leads to anybody's server, which may take every time-out there is. So such calls have some of the threads at
a time, and those that find none stand in a second line, behind all that the Hub is asked: nobody's tarpits keep others
waiting for the Hub.

A download that a worker takes at once is left alone for a moment, so that the Hub is not asked twice for nothing. And
only what is final ends a download here: a Hub that is away, a limit, a disk are the worker's to wait for.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Generator
from typing import Final

from hive import logs
from hive.disk_errors import system_error
from hive.downloads.context import DownloadContext
from hive.downloads.events import failed_event, on_disk_event, resolved_event
from hive.downloads.record import Record
from hive.downloads.resolutions import Access, AccessQuestion, Question, ResolutionCall, Resolutions
from hive.errors import (
    BadRequest,
    CredentialsLost,
    HiveError,
    HubRefused,
    HubUnavailable,
    InternalError,
    ModelAccessDenied,
    NotAModel,
    NotFound,
    ProxyRefused,
    ResourcesExhausted,
    TlsRefused,
)
from hive.redis.client import RedisClient, connect
from hive.redis.errors import is_redis_error
from hive.secrets import Credentials, Purpose, SecretKeyError, purpose_of, token_purpose, unseal
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.restricted import ProbeFile
from hive.wire.api import ErrorBody, ErrorReply
from hive.wire.encoding import encode_json
from hive.wire.jobs import Request
from hive.wire.refs import HIDDEN_QUERY, parse_ref, with_query
from workers import sources
from workers.fetch import limits_of, network_for, network_of
from workers.fleet.cooldown import RedisCooldown
from workers.plans import described, name_of
from workers.publish import Store
from workers.resolve import RATE_LIMIT_WAIT_MAX_S, REFUSED, hub_host, source_host, without_lent_token

log = logging.getLogger("workers.resolver")

#: Threads, each with one reference in hand.
THREADS: Final = 4
#: Those of them that may ask the servers of plain URLs at a time, and seconds that another waits to be one.
URL_THREADS: Final = 2
URL_TURN_S: Final = 0.2
#: Seconds for which a download is left to the workers before the Hub is asked for it here.
GRACE_S: Final = 0.5
#: Seconds that a thread waits for a call before it says again that it is there.
TAKE_TIMEOUT_S: Final = 5
#: Seconds for a reply of Redis: longer than a thread waits for a call.
REPLY_TIMEOUT_S: Final = TAKE_TIMEOUT_S + 5.0
#: Seconds before a Redis that is away is tried again.
REDIS_RETRY_S: Final = 1.0
#: How often a Hub that does not answer is asked, and the seconds between.
HUB_ATTEMPTS: Final = 3
HUB_RETRY_S: Final = 1.0
#: Files of one question of access that are asked for, at most: servers ask for fewer (PLACES_A_QUESTION).
MAX_PLACES_OF_A_QUESTION: Final = 64
#: The longest rest of the Hub, in seconds, that a thread waits for; what is asked meanwhile is left to the workers.
MAX_REST_S: Final = 20.0
#: Seconds between two looks whether the process was told to stop.
SIGNAL_LOOK_S: Final = 0.2
#: What no later try changes. All else is left to the worker that takes the download.
FINAL: Final = (
    *(BadRequest, NotFound, ModelAccessDenied, CredentialsLost, HubRefused, TlsRefused, ProxyRefused, NotAModel),
)


def announce(settings: Settings) -> None:
    """Say that a resolver is about to begin: what is asked from now on waits for it. A pool does so before its workers
    are there, since whoever sees them asks at once. A Redis that is away is told later, by the resolver itself.
    """
    assert settings.redis_address is not None
    try:
        with connect(settings.redis_address) as client:
            Resolutions(client).alive()
    except Exception as error:
        if not is_redis_error(error):
            raise


def run(settings: Settings) -> None:
    """Be the resolver of a pool, in this process, until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    turns = threading.BoundedSemaphore(URL_THREADS)
    resolvers = [Resolver(settings, stop, turns) for _ in range(THREADS)]
    threads = [threading.Thread(target=each.run, name=f"resolver-{n}") for n, each in enumerate(resolvers)]
    for thread in threads:
        thread.daemon = True
        thread.start()
    # Not `stop.wait()`: a signal that comes just before it would be seen when it is over, and one that comes while the
    # event takes its lock would wait for that lock in its handler. Nor `time.sleep`: where the clock is shifted
    # (libfaketime) it waits for an hour, or not at all.
    nothing = threading.Event()
    while not stop.is_set():
        nothing.wait(SIGNAL_LOOK_S)
    # What is in hand is nobody's loss: the worker that takes the download resolves it.


class Resolver:
    """One thread's."""

    def __init__(self, settings: Settings, stop: threading.Event, url_turns: threading.BoundedSemaphore) -> None:
        """`url_turns`: one for each thread of the process that may ask the servers of plain URLs."""
        self._url_turns = url_turns
        assert settings.redis_address is not None
        self._settings = settings
        self._stop = stop
        client: RedisClient = connect(settings.redis_address, reply_timeout_s=REPLY_TIMEOUT_S)
        self._downloads = DownloadContext.of(client, settings)
        self._resolutions = Resolutions(client)
        self._cooldown = RedisCooldown(client)

    def run(self) -> None:
        """Answer calls until the process stops; neither Redis nor a mistake of ours is a reason to end."""
        while not self._stop.is_set():
            try:
                self._resolutions.alive()
                call = self._resolutions.take(TAKE_TIMEOUT_S)
                if call is not None:
                    self.answer(call)
            except Exception as error:
                if is_redis_error(error):
                    log.debug("Redis is away; the resolver waits", extra={"fields": {"reason": str(error)}})
                else:
                    log.exception("a reference could not be looked at; the next one is")
                self._stop.wait(REDIS_RETRY_S)

    def answer(self, call: ResolutionCall) -> None:
        """Answer one call."""
        if call.plan_id:
            question = self._resolutions.question(call.plan_id)
            if question is not None:
                with logs.bound(request_id=question.request_id), self._turn(call, question.request) as is_ours:
                    if not is_ours:
                        return
                    self._resolutions.give_answer(call.plan_id, self._plan(question))
        elif call.access_id:
            asked = self._resolutions.access_question(call.access_id)
            if asked is not None:
                with logs.bound(request_id=asked.request_id):
                    answer = {place: self._access(asked, place) for place in asked.places[:MAX_PLACES_OF_A_QUESTION]}
                    self._resolutions.give_answer(call.access_id, encode_json(list(answer.values())))
        else:
            self._look_at(call)

    @contextlib.contextmanager
    def _turn(self, call: ResolutionCall, request: Request) -> Generator[bool]:
        """Whether this thread may ask for what the request names; else the call stands in line again."""
        if not parse_ref(request.ref).is_strangers:
            yield True
        elif self._url_turns.acquire(timeout=URL_TURN_S):
            try:
                yield True
            finally:
                self._url_turns.release()
        else:
            self._resolutions.call_later(call)
            yield False

    # -- a queued download -------------------------------------------------------------------------------------------

    def _look_at(self, call: ResolutionCall) -> None:
        download_id = call.download_id
        record = self._downloads.tracker.read(download_id)
        if record is None:
            return
        waited_s = time.time() - record.queued_ms / 1000
        if 0 <= waited_s < GRACE_S:
            self._stop.wait(GRACE_S - waited_s)
            record = self._downloads.tracker.read(download_id)
        if record is None or record.state != "queued" or self._stop.is_set():
            return
        if parse_ref(record.request.ref).is_local_file:
            return  # it may be on another worker's machine
        bound = logs.bound(download_id=record.id, attempt=record.attempt, request_id=record.request_id)
        with bound, self._turn(call, record.request) as is_ours:
            if not is_ours:
                return
            try:
                found = self._resolve_record(record)
            except FINAL as error:
                self._end(record, error)
            except HiveError as error:
                log.info("not resolved yet", extra={"fields": {"code": error.code, "reason": error.message}})
            else:
                if not self._end_on_disk(record, found):
                    self._tell(record, found)

    def _resolve_record(self, record: Record) -> sources.Plan:
        sealed = self._downloads.tracker.read_secret(record.id)
        if sealed is None and record.ref.endswith(HIDDEN_QUERY):
            raise CredentialsLost
        credentials = self._unsealed(sealed, self._purpose(record), record.created_ms / 1000)
        try:
            return self._resolve(record.request, credentials)
        except REFUSED as error:
            # Somebody who joined meanwhile may have brought the token that it lacked.
            if self._downloads.tracker.read_secret(record.id) != sealed:
                return self._resolve_record(record)
            own = without_lent_token(credentials, self._downloads.tracker.read(record.id))
            if own is None:
                raise
            with contextlib.suppress(*REFUSED):
                return self._resolve(record.request, own)
            raise error from None  # of the token that somebody has sent

    def _tell(self, record: Record, found: sources.Plan) -> None:
        event = resolved_event(record, name_of(found), found.total_bytes or 0, len(found.files))
        if self._resolutions.resolved(record, name_of(found), event):
            log.info("resolved in the queue", extra={"fields": {"files": len(found.files), "bytes": found.total_bytes}})

    def _end_on_disk(self, record: Record, found: sources.Plan) -> bool:
        """End a download of a restricted model of which all is on the disk, now that the Hub has let it in: a public
        one would not have come to the queue.
        """
        request = record.request
        if not found.places or request.as_operator or request.update:
            return False
        there = ModelCatalog(self._settings).find(found.ref, request.include, request.exclude)
        if there is None or there.commit != found.commit:
            return False
        Store(self._settings).note_let_in(found, record.owners)
        event = on_disk_event(there.local_path, there.size, len(there.files), there.note)
        if self._downloads.claims.finish_unclaimed(record, "complete", event):
            log.info("complete", extra={"fields": {"bytes": there.size}})
        return True

    def _end(self, record: Record, error: HiveError) -> None:
        """It can never be had: the end comes now, unless somebody has taken it, and then finds out as well."""
        figures = resolved_event(record, "", 0, 0)
        if self._downloads.claims.finish_unclaimed(record, "failed", failed_event(error, record.attempt, figures)):
            log.info("failed", extra={"fields": {"code": error.code, "reason": error.message}})

    # -- who may have a file ----------------------------------------------------------------------------------------

    def _access(self, asked: AccessQuestion, place: ProbeFile) -> Access:
        host = hub_host(self._settings)
        if self._settings.hf_hub_offline or self._stop.is_set() or self._cooldown.remaining_s(host) > 0:
            return "unknown"
        try:
            purpose = token_purpose("access", asked.id, self._settings.hf_endpoint)
            token = self._unsealed(asked.sealed or None, purpose).hf_token
            return sources.access(
                place, settings=self._settings, network=network_for(self._settings, guarded=False), token=token
            )
        except sources.RetryLater as limit:
            self._cooldown.set(host, min(limit.seconds, RATE_LIMIT_WAIT_MAX_S))
            return "unknown"
        except HubUnavailable:
            return "unknown"
        except HiveError:
            return "no"

    # -- a question --------------------------------------------------------------------------------------------------

    def _plan(self, question: Question) -> bytes:
        try:
            purpose = purpose_of("plan", question.id, parse_ref(question.request.ref), self._settings.hf_endpoint)
            found = self._resolve(question.request, self._unsealed(question.sealed or None, purpose))
            answer = described(found, Store(self._settings))
        except HiveError as error:
            return _refusal(error)
        except Exception as error:
            if refused := system_error(error):
                if isinstance(refused, ResourcesExhausted):  # perhaps of a mistake of ours, that asked for so much
                    log.exception("a plan could not be made")
                return _refusal(refused)
            if is_redis_error(error):
                raise
            log.exception("a plan could not be made")
            return _refusal(InternalError())
        return encode_json(answer)

    # -- both --------------------------------------------------------------------------------------------------------

    def _resolve(self, request: Request, credentials: Credentials) -> sources.Plan:
        """What a request means. Raises HiveError; HubUnavailable also where the Hub wants a longer rest."""
        ref = with_query(parse_ref(request.ref), credentials.url_query)
        host = source_host(self._settings, ref)
        attempts = 0
        while True:
            rest_s = self._cooldown.remaining_s(host) if host else 0.0
            if rest_s > MAX_REST_S or self._stop.is_set():
                raise HubUnavailable(f"The Hub asks to wait {rest_s:.0f} s (rate limit).")
            self._stop.wait(rest_s)
            try:
                found = sources.resolve(
                    ref,
                    settings=self._settings,
                    network=network_of(self._settings, ref),
                    include=request.include,
                    exclude=request.exclude,
                    sha256=request.sha256,
                    name=request.name,
                    as_operator=request.as_operator,
                    token=credentials.hf_token or (self._settings.token() if request.as_operator else None),
                )
                if found.kind == "url" and not ref.is_local_file:
                    return sources.probed(found, network_of(self._settings, ref), limits_of(self._settings))
                return found
            except sources.RetryLater as limit:
                self._cooldown.set(host, min(limit.seconds, RATE_LIMIT_WAIT_MAX_S))
            except HubRefused:
                raise
            except HubUnavailable:
                attempts += 1
                if attempts >= HUB_ATTEMPTS or self._settings.hf_hub_offline:
                    raise
                self._stop.wait(HUB_RETRY_S * attempts)

    def _purpose(self, record: Record) -> Purpose:
        return purpose_of("download", record.id, parse_ref(record.request.ref), self._settings.hf_endpoint)

    def _unsealed(self, sealed: bytes | None, purpose: Purpose, made_s: float | None = None) -> Credentials:
        """Raises ModelAccessDenied where they were sealed with another key, or for something else."""
        try:
            return unseal(sealed, self._settings.secret_key_path, purpose, made_s) if sealed else Credentials()
        except SecretKeyError as error:
            raise ModelAccessDenied(str(error)) from None


def _refusal(error: HiveError) -> bytes:
    return encode_json(ErrorReply(ErrorBody(code=error.code, message=error.message, details=error.details)))
