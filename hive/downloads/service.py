"""DownloadService: the one way to ask for a model, and to look after what was asked for.

Problem: a route, a retry, a repair and other systems' APIs all ask for models, and an ask is five steps in three kinds
of threads: look on the disk, write the record and enqueue, note it in the intent log, attach the webhook, answer. The
easy way, to write the steps where they are needed, was taken three times, and each time one of them was forgotten. So
they are here, once; whoever asks gives a `DownloadSpec`.

The disk is touched in threads of their own, and never in the one that talks to Redis: a slow disk must not hold up the
streams. Where the store cannot be written the download goes on without the note; only a wish to purge cannot do
without.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, Final, Protocol

import msgspec
from redis.exceptions import RedisError

from hive import logs
from hive.auth.principal import Principal
from hive.disk_errors import disk_error
from hive.downloads.access import ModelAccess
from hive.downloads.context import DownloadContext
from hive.downloads.events import requeued_event
from hive.downloads.intents import Intent, IntentLog, intent_of
from hive.downloads.provisioner import ModelProvisioner, Provisioned, read_ref
from hive.downloads.questions import Questions
from hive.downloads.record import Record
from hive.downloads.resolutions import Question, Resolutions
from hive.downloads.restore import Restore
from hive.downloads.threads import Threads
from hive.error_codes import from_code
from hive.errors import (
    Conflict,
    DownloadNotFound,
    HubUnavailable,
    RedisUnavailable,
    ServerBusy,
    StoreMissing,
    TooManyRequests,
    WorkersSilent,
)
from hive.redis.client import CommandThread
from hive.store.catalog import OnDisk
from hive.wire.api import DownloadPlan, ErrorReply
from hive.wire.refs import HIDDEN_QUERY
from hive.wire.spec import DownloadSpec

log = logging.getLogger("hive.downloads.service")

#: Threads that look for models on the disk, and requests that wait for one. A look-up takes milliseconds, but on a busy
#: network drive it may take seconds. Few, because each that computes takes its share of the interpreter.
LOOKUP_THREADS: Final = 2
MAX_WAITING_LOOKUPS: Final = 256
#: Threads that read and write the intent log, and calls that wait for one.
INTENT_THREADS: Final = 4
MAX_WAITING_INTENTS: Final = 1024


#: Seconds to wait for a plan, less than clients wait for an answer; and between two looks whether it is there.
PLAN_TIMEOUT_S: Final = 25.0
PLAN_POLL_S: Final = 0.05
#: Requests that may wait for one at a time.
MAX_WAITING_PLANS: Final = 32
#: Those of one owner of keys, and seconds after which whoever had too many is to try again.
MAX_WAITING_PLANS_OF_ONE: Final = 8
PLANS_RETRY_S: Final = 5


class Webhooks(Protocol):
    """Where the end of a download is to be told; hive.webhooks.outbox is one."""

    def read(self, text: str) -> Any:
        """What to add for the URL in a request. Raises HiveError."""

    def add(self, download_id: str, webhook: Any, owner: str) -> None:
        """Tell this one too, while `owner` has a share in the download. Blocking. Raises HiveError and redis-py's
        errors.
        """

    def secret(self, webhook: Any, owner: str) -> str | None:
        """What its receiver checks signatures with; None for one that has the operator's."""


class DownloadService:
    """Requests for models, and their notes in the intent log. Its methods belong to the event loop."""

    def __init__(
        self,
        commands: CommandThread,
        records: DownloadContext,
        provisioner: ModelProvisioner,
        webhooks: Webhooks,
        intents: IntentLog,
        restore: Restore,
        resolutions: Resolutions,
        access: ModelAccess,
    ) -> None:
        self._access = access
        self._questions = Questions(commands, resolutions)
        self._plans = 0
        self._plans_of: Counter[str] = Counter()
        self._commands = commands
        self._tracker, self._claims, self._queue = records.tracker, records.claims, records.queue
        self._provisioner = provisioner
        self._webhooks = webhooks
        self._intents = intents
        self._restore = restore
        self._lookups = Threads("lookup", LOOKUP_THREADS, MAX_WAITING_LOOKUPS)
        self._notes = Threads("intents", INTENT_THREADS, MAX_WAITING_INTENTS)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def request(self, spec: DownloadSpec, *, webhook_url: str | None = None, retry_of: str = "") -> Provisioned:
        """Ask for a model: it is on disk, or under way already, or a new download waits for a worker.

        Raises:
            TooManyDownloads: the queue is full.
            BadRequest, UnsafeUrl, TooManyWebhooks: the webhook cannot be had; the last when the download goes on.
            RedisUnavailable: Redis is away.
            ServerBusy: too many requests wait for the disk.
        """
        webhook = self._webhooks.read(webhook_url) if webhook_url else None
        on_disk = await self._lookups.run(self._look, spec)
        made = await self._commands.run(self._provisioner.start, spec, on_disk, retry_of)
        if made.intent is not None:
            await self._note(made.intent)
        elif made.joined and spec.owner:
            record = await self._note_owners(made.download_id)
            if record is not None and record.state == "paused" and record.is_shared:
                await self._commands.run(self._resume, record)  # who comes now has not paused it
        if webhook is not None:
            # Whoever gets no answer because this process died in between asks again, and joins.
            await self._commands.run(self._webhooks.add, made.download_id, webhook, spec.owner)
            made = made._replace(webhook_secret=self._webhooks.secret(webhook, spec.owner))
        return made

    async def on_disk(self, spec: DownloadSpec) -> OnDisk | None:
        """Where the model is on the disk, all of it, for who may have it; else None.

        Raises:
            ServerBusy: too many requests wait for the disk.
        """
        return await self._lookups.run(self._look, spec)

    def _look(self, spec: DownloadSpec) -> OnDisk | None:
        """Where the model is on the disk, for who may have it. Blocking."""
        found = self._provisioner.look(spec)
        return found if found is not None and self._access.is_let_in(spec, found) else None

    def _look_unlisted(self, spec: DownloadSpec) -> OnDisk | None:
        """The same where the Hub is away. Blocking."""
        found = self._provisioner.look_unlisted(spec)
        return found if found is not None and self._access.is_let_in(spec, found) else None

    async def plan(self, spec: DownloadSpec) -> DownloadPlan:
        """What a download would bring, without one; from the disk where all of it is there.

        Raises:
            HiveError: what the reference means nothing for, as the end of a download would say it.
            WorkersSilent: it is not on the disk, and no worker answers.
            ServerBusy: too many wait for such an answer.
            TooManyRequests: too many of this owner do.
        """
        on_disk = await self._lookups.run(self._look, spec)
        if on_disk is not None:
            return await self._lookups.run(self._provisioner.plan_on_disk, spec, on_disk)
        if spec.owner and self._plans_of[spec.owner] >= MAX_WAITING_PLANS_OF_ONE:
            text = f"{MAX_WAITING_PLANS_OF_ONE} requests of this key wait for a plan already, which are as many as may."
            raise TooManyRequests(text, retry_after_s=PLANS_RETRY_S)
        if self._plans >= MAX_WAITING_PLANS:
            raise ServerBusy("Too many requests wait for a plan. Try again in a moment.")
        self._plans += 1
        self._plans_of[spec.owner] += 1
        try:
            return await self._ask(await self._lookups.run(self._provisioner.question, spec))
        except HubUnavailable:
            copy = await self._lookups.run(self._look_unlisted, spec)
            if copy is None:
                raise
            return await self._lookups.run(self._provisioner.plan_on_disk, spec, copy)
        finally:
            self._plans -= 1
            self._plans_of[spec.owner] -= 1
            self._plans_of += Counter()  # forgets those who have none

    async def retry(
        self,
        record: Record,
        principal: Principal,
        *,
        hf_token: str | None = None,
        webhook_url: str | None = None,
    ) -> Provisioned:
        """Ask again for what a download that has ended was asked for, in the name of whoever asks now; see `request`.

        Raises:
            Conflict: it has not ended, or its URL had a query, which is not kept.
        """
        if not record.is_terminal:
            raise Conflict("The download has not ended; there is nothing to retry.", status=record.status)
        if record.ref.endswith(HIDDEN_QUERY):
            raise Conflict("The URL had a query, which hive does not keep. Ask with POST /v1/models/download again.")
        asked = record.request
        spec = DownloadSpec(
            read_ref(asked.ref),
            include=asked.include,
            exclude=asked.exclude,
            update=asked.update,
            sha256=asked.sha256,
            hf_token=hf_token,
            max_bytes_per_second=asked.max_bytes_per_second,
            name=asked.name,
            priority=record.priority,
            request_id=logs.bound_field("request_id"),
            owner=principal.owner,
            as_operator=principal.may("admin"),
        )
        return await self.request(spec, webhook_url=webhook_url, retry_of=record.id)

    async def find(self, download_id: str, principal: Principal) -> Record:
        """The record of a download, made again where Redis has lost it and the intent log knows it.

        Raises:
            DownloadNotFound: nobody knows it, or it is somebody else's.
            RedisUnavailable: Redis is away.
        """
        record = await self._commands.run(self._tracker.read, download_id)
        if record is None and await self.bring_back(download_id):
            record = await self._commands.run(self._tracker.read, download_id)
        if record is None or not principal.sees(record.owners):
            raise DownloadNotFound(id=download_id)
        return record

    async def _ask(self, question: Question) -> DownloadPlan:
        """The answer of a resolver, waited for."""
        answer = await self._questions.answer(question, PLAN_TIMEOUT_S, PLAN_POLL_S)
        if answer is None:
            raise WorkersSilent
        return _read_plan(answer)

    def _resume(self, record: Record) -> None:
        number = self._claims.release(record, requeued_event(record, None, "queued"), counts=False)
        if number is not None:
            self._queue.enqueue(record.id, number)

    async def leave(self, record: Record, principal: Principal) -> bool:
        """Take this principal's share out of a download. False where that leaves nobody who wants it, so that it is to
        be ended: for the last owner, for who administers what others want, and where there are no keys.
        """
        if principal.owner not in record.owners:
            return False
        said = await self._commands.run(self._tracker.leave, record.id, principal.owner)
        if said == "last":
            return False
        left = await self._note_owners(record.id)
        # A call that is repeated because its reply was lost finds that it has left.
        return said == "left" or (left is not None and not left.is_terminal)

    # -- the intent log ----------------------------------------------------------------------------------------------

    async def changed(self, record: Record) -> None:
        """Note what a person's change has made of a download."""
        if record.is_terminal:
            await self._ended(record.id)
        elif record.control != "cancel":
            await self._note(intent_of(record))

    async def cancelling(self, record: Record, *, purge: bool) -> None:
        """Note that a person wants the end, before it comes: so it also comes when Redis forgets the wish.

        Raises:
            StoreNotWritable: the partial files are to be removed, and that cannot be written down.
        """
        try:
            await self._notes.run(self._intents.write, intent_of(record, cancelled=True, purge=purge))
        except (OSError, StoreMissing) as error:
            if purge:
                raise (disk_error(error) if isinstance(error, OSError) else error) from error
            log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})

    async def bring_back(self, *download_ids: str) -> bool:
        """Whether one of these is known to the intent log alone, and has its record again.

        Raises:
            RedisUnavailable: Redis is away.
        """
        try:
            found = [await self._notes.run(self._restore.bring_back, download_id) for download_id in download_ids]
        except RedisError as error:
            raise RedisUnavailable from error
        except (OSError, StoreMissing) as error:
            log.warning("the intent log cannot be read", extra={"fields": {"reason": str(error)}})
            return False
        return any(found)

    async def compare(self, mark: bytes | None) -> None:
        """Bring back all that Redis has lost, where it is time to look; `mark` is what Redis has as its mark.

        Raises:
            RedisError, OSError: Redis or the store does not answer.
        """
        if self._restore.is_due(mark):
            await self._notes.run_long(self._restore.look, mark)

    def close(self) -> None:
        """Let go of the threads and the connection to Redis."""
        self._lookups.close()
        self._notes.close()
        self._access.close()
        self._restore.stop()

    async def _note(self, intent: Intent) -> None:
        """Write a request that was just made, or what people want of it now."""
        try:
            await self._notes.run(self._intents.write, intent)
        except (OSError, StoreMissing) as error:
            log.warning("the intent log cannot be written; going on", extra={"fields": {"reason": str(error)}})

    async def _note_owners(self, download_id: str) -> Record | None:
        """Write who has a share in a download that goes on; gives its record."""
        record = await self._commands.run(self._tracker.read, download_id)
        if record is not None and not record.is_terminal and record.control != "cancel":
            await self._note(intent_of(record))
        return record

    async def _ended(self, download_id: str) -> None:
        """Forget a download that has ended; its partial files go where that is wished. What fails is done later."""
        try:
            await self._notes.run(self._restore.close, download_id)
        except (OSError, StoreMissing, RedisError) as error:
            log.warning("the intent log keeps what has ended for now", extra={"fields": {"reason": str(error)}})


def _read_plan(answer: bytes) -> DownloadPlan:
    """A resolver's answer. Raises the HiveError that it is."""
    try:
        refused = msgspec.json.decode(answer, type=ErrorReply).error
    except msgspec.ValidationError:
        return msgspec.json.decode(answer, type=DownloadPlan)
    raise from_code(refused.code, refused.message, refused.details)
