"""Sends webhooks: looks what is due, posts it, and says what came of it.

Problem: a receiver may be slow, silent or gone for hours, and the process that asks it has ten thousand streams to
serve. So a POST has a thread of its own for its time, of which there are a few; neither the event loop nor the thread
that talks to Redis waits for it. The threads are daemons: a server that stops does not wait for a receiver that does
not answer, and what was in their hands is sent by another process when its time to be hidden is over.

A message that was sent and could not be marked as sent, because Redis or this process went away in between, is sent
again: at least once, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hive.auth.principal import ANONYMOUS, NOBODY
from hive.downloads.record import Record
from hive.downloads.tracker import DownloadTracker
from hive.downloads.view import view
from hive.errors import RedisUnavailable, UnsafeUrl
from hive.net.backoff import Jitter
from hive.redis.client import CommandThread
from hive.secrets import SecretKeyError
from hive.settings import Settings
from hive.webhooks.outbox import WebhookMessage, WebhookOutbox, WebhookTarget
from hive.webhooks.signature import sign
from hive.wire.encoding import encode_json

if TYPE_CHECKING:
    from hive.webhooks.delivery import DeliveryReply

T = TypeVar("T")

log = logging.getLogger("hive.webhooks")

#: Seconds between two looks at what is due; and where there is nothing to sign with, so that nothing can be sent.
LOOK_INTERVAL_S: Final = 0.5
IDLE_INTERVAL_S: Final = 30.0
#: Messages that a process sends at a time, each in a thread: those that requests brought, and those of the settings.
MAX_UNDER_WAY: Final = 8
MAX_OWN_UNDER_WAY: Final = 8
#: The part of that which is waited: two servers that look in step would find each time what only the other can send.
LOOK_JITTER: Final = Jitter(0.5, 1.0)
#: A wait is lengthened by up to this part of itself, so that what failed together does not come back together.
JITTER: Final = Jitter(1.0, 1.25)
#: The longest wait that a receiver may ask for with Retry-After, in seconds.
MAX_RETRY_AFTER_S: Final = 86_400.0
#: Seconds that a process tries to tell Redis what came of a message.
SETTLE_S: Final = 60.0
#: Seconds that a server that stops waits for what is under way.
STOP_S: Final = 1.0
#: Tries that may end without anybody to say how, because the process ended too, above those that are waited for.
SPARE_TRIES: Final = 10
#: The receiver says that it does not want to hear any more.
GONE: Final = 410

_TYPES: Final = {"complete": "download.completed", "failed": "download.failed", "cancelled": "download.cancelled"}


class WebhookDispatcher:
    """Sends what is due, for as long as the process lives."""

    def __init__(
        self, settings: Settings, commands: CommandThread, tracker: DownloadTracker, webhooks: WebhookOutbox
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._tracker = tracker
        self._webhooks = webhooks
        self._key = settings.webhook_key
        self._timeout_s = settings.webhook_timeout_s
        self._under_way: dict[asyncio.Task[None], WebhookMessage] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Look and send until cancelled; an unreachable Redis is no reason to stop."""
        interval_s = IDLE_INTERVAL_S if self._key is None else LOOK_INTERVAL_S
        try:
            while True:
                try:
                    await self._look()
                except RedisUnavailable:
                    pass
                except Exception:
                    log.exception("webhooks failed; they go on")
                # Not wait_for: that of Python 3.11 drops a cancellation which comes together with news.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_JITTER.of(interval_s)):
                        await self._wake.wait()
        finally:
            await self._stop()

    async def _look(self) -> None:
        self._wake.clear()
        began_s = time.monotonic()
        now = tuple(self._under_way.values())
        own = sum(message.of_settings for message in now)
        most, most_own = MAX_UNDER_WAY - len(now) + own, MAX_OWN_UNDER_WAY - own
        if self._key is None:
            most = most_own = 0
        for message in await self._commands.run(self._webhooks.take, most, most_own, now):
            task = asyncio.create_task(self._deliver(message, began_s))
            self._under_way[task] = message
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a webhook failed; it is tried again", exc_info=error)

    async def _deliver(self, message: WebhookMessage, began_s: float) -> None:
        """One try of one message, from the address to what came of it."""
        if message.number > len(self._settings.webhook_waits_s) + SPARE_TRIES:
            await self._end(message, "", "given up: its tries end without a word")
            return
        try:
            target = self._webhooks.target(message)
        except SecretKeyError as error:
            await self._again(message, "", str(error))
            return
        if target is None:
            await self._strange(message)
            return
        host = target.url.host
        try:
            body = message.body or await self._body(message.download_id)
        except RedisUnavailable:
            return
        if body is None:
            await self._end(message, host, "given up: its download is forgotten")
            return
        if time.monotonic() - began_s > self._timeout_s:
            return  # by the end of this try it might be in other hands
        try:
            answer = await _apart(lambda: self._post(message, target, body))
        except UnsafeUrl as error:
            await self._end(message, host, f"given up: {error.message}")
        except OSError as error:
            await self._again(message, host, str(error), body=body)
        else:
            await self._judge(message, host, answer, body)

    async def _judge(self, message: WebhookMessage, host: str, answer: DeliveryReply, body: bytes) -> None:
        if 200 <= answer.status < 300:
            log.info("webhook sent", extra={"fields": _fields(message, host) | {"status": answer.status}})
            await self._settle(self._webhooks.done, message)
        elif answer.status == GONE:
            await self._end(message, host, "given up: the receiver says 410 Gone")
        else:
            await self._again(message, host, f"status {answer.status}", answer.retry_after_s, body)

    async def _again(
        self, message: WebhookMessage, host: str, reason: str, asked_s: float | None = None, body: bytes = b""
    ) -> None:
        waits_s = self._settings.webhook_waits_s
        if message.number > len(waits_s):
            await self._end(message, host, f"given up at try {message.number}: {reason}")
            return
        wait_s = JITTER.of(waits_s[message.number - 1])
        wait_s = max(wait_s, min(asked_s or 0.0, MAX_RETRY_AFTER_S))
        fields = _fields(message, host) | {"reason": reason, "again_in_s": round(wait_s, 1)}
        log.warning("webhook not taken; it is tried again", extra={"fields": fields})
        await self._settle(self._webhooks.postpone, message, wait_s, body)

    async def _strange(self, message: WebhookMessage) -> None:
        """It is for a webhook that this process's settings do not have: another's, or nobody's any more."""
        if await self._settle(self._webhooks.is_known, message) is False:
            await self._end(message, "", "given up: no server has it in its settings any more")
        else:
            await self._again(message, "", "it is in another server's settings only")

    async def _end(self, message: WebhookMessage, host: str, why: str) -> None:
        log.error("webhook %s", why, extra={"fields": _fields(message, host)})
        await self._settle(self._webhooks.done, message)

    async def _body(self, download_id: str) -> bytes | None:
        record = await self._commands.run(self._tracker.read, download_id)
        return body_of(record) if record is not None and record.is_terminal else None

    def _post(self, message: WebhookMessage, target: WebhookTarget, body: bytes) -> DeliveryReply:
        """In a thread. Raises UnsafeUrl, and OSError where no answer came."""
        # Here and not above: it takes as long to load as half of the server, and few servers have webhooks.
        from hive.net.egress import Network
        from hive.webhooks.delivery import post

        settings = self._settings
        network = Network(
            settings.proxies, settings.trust, settings.user_agent, target.check, settings.proxy_unresolved
        )
        headers = {
            "content-type": "application/json",
            "user-agent": settings.user_agent,
            "accept-encoding": "identity",
            **sign(target.key, message.id, int(time.time()), body),
        }
        return post(target.url, body, headers, network, self._timeout_s)

    async def _settle(self, call: Callable[..., T], *args: Any) -> T | None:
        """Tell Redis what came of it, patiently; None where it stays away, and the message comes back by itself."""
        until_s = time.monotonic() + SETTLE_S
        while True:
            try:
                return await self._commands.run(call, *args)
            except RedisUnavailable:
                if time.monotonic() > until_s:
                    return None
                await asyncio.sleep(LOOK_INTERVAL_S)

    async def _stop(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=STOP_S)
        for task in self._under_way:
            task.cancel()


def body_of(record: Record) -> bytes:
    """What is sent of an end: its type, its time, and the download as `GET /v1/downloads/{id}` shows it."""
    ended = datetime.fromtimestamp(record.ended_ms / 1000, UTC).isoformat(timespec="milliseconds")
    timestamp = ended.replace("+00:00", "Z")
    whom = NOBODY if record.is_shared else ANONYMOUS
    return encode_json({"type": _TYPES[record.state], "timestamp": timestamp, "data": view(record, whom)})


def _fields(message: WebhookMessage, host: str) -> dict[str, Any]:
    """What a log line says of a message: the host, and nothing more of the URL."""
    return {"download_id": message.download_id, "host": host, "try": message.number}


def _apart(call: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a call in a thread that nobody waits for when the process ends."""
    result: concurrent.futures.Future[T] = concurrent.futures.Future()
    result.set_running_or_notify_cancel()

    def work() -> None:
        try:
            found = call()
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(found)

    threading.Thread(target=work, name="webhook", daemon=True).start()
    return asyncio.wrap_future(result)
