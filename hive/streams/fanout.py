"""Fan-out: one subscription of the process -> a topic per watched download -> its subscribers.

Problem: thousands of clients watch one download, Redis pub/sub delivers at most once, and clients join at any moment.
The easy way, one SUBSCRIBE per client, was measured to lose the end of a download that ends during the subscribe, to
give nothing to a late client, and to cost 90 microseconds per delivery. So: progress is state. A topic holds the
latest event (one slot, already framed); a message with a greater version replaces it and the subscribers are told;
whoever was slow or absent reads the slot. Whatever could have been missed (before the first read, while the
connection was away, in silence) is read again from the record, and versions make repeats harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from hive import errors
from hive.auth.principal import ANONYMOUS, Principal
from hive.downloads.record import TopicState
from hive.errors import RedisUnavailable
from hive.net.redis_url import RedisAddress
from hive.redis.client import CommandThread, database_of
from hive.streams.heartbeat import Heartbeat
from hive.streams.pubsub import Subscription
from hive.streams.right_of_way import RightOfWay
from hive.streams.topic import Subscriber, Topic
from hive.wire import events, keys
from hive.wire.events import Message, Version, parse_message
from hive.wire.keys import Channels

log = logging.getLogger("hive.streams.fanout")

#: Subscribers told in a row before other work of the process gets its turn.
CHUNK = 256
#: Ids read in one pipeline.
READ_BATCH = 500
#: Seconds of silence after which a watched, unfinished download is read again. Workers speak at least every 5 s.
SILENCE_S = 15.0
#: Seconds that a known download may be missing from Redis before its streams are ended: lost data comes back earlier
#: than that.
MISSING_S = 60.0
#: Seconds between two looks at silence and keep-alives.
TICK_S = 0.5


class States(Protocol):
    """What topics are read from: the tracker of downloads is one."""

    def read_states(self, ids: Iterable[str], /) -> list[TopicState | None]:
        """The latest event of each, and who may see it; None where the id is unknown. Blocking."""


class Fanout:
    """The topics of a process. `run` keeps them current; `join` and `leave` are for subscribers."""

    def __init__(
        self,
        redis: RedisAddress | str,
        commands: CommandThread,
        tracker: States,
        *,
        keepalive_s: float,
        channels: Channels = keys.DOWNLOAD_CHANNELS,
        way: RightOfWay | None = None,
    ) -> None:
        """`tracker` reads the states of what tells its progress in `channels`. `way` is taken while that is told."""
        self._way = way or RightOfWay()
        self._channels = channels
        self._commands = commands
        self._tracker = tracker
        self._keepalive_s = keepalive_s
        self._topics: dict[str, Topic] = {}
        self._changed: deque[Topic] = deque()
        self._ended: deque[Topic] = deque()
        self._work = asyncio.Event()
        self._reads: dict[str, asyncio.Future[None]] = {}
        self._read_wanted = asyncio.Event()
        self._database = database_of(commands.client)
        self._subscription = Subscription(
            redis, channels.pattern(self._database), self._on_message, self._on_subscribed
        )
        own_channel = channels.probe(uuid.uuid4().hex, self._database)
        self._heartbeat = Heartbeat(commands, self._subscription, own_channel)
        self._told = 0
        self._watchers = _Watchers()
        self._when_subscribed: list[Callable[[], None]] = []
        #: Changes told to subscribers: one of a topic that n watch counts n.
        self.frames_sent = 0

    # -- for subscribers ---------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the process is subscribed."""
        return self._subscription.connected

    @property
    def refused(self) -> str:
        """Why it is not, with the way out; "" where nobody has refused it."""
        return self._subscription.refused

    @property
    def subscribers(self) -> set[Subscriber]:
        """Everyone who watches anything."""
        return {subscriber for topic in self._topics.values() for subscriber in topic.subscribers}

    @property
    def messages_received(self) -> int:
        """How many messages have arrived over the subscription."""
        return self._subscription.messages

    @property
    def reconnects(self) -> int:
        """How often the subscription was made again."""
        return self._subscription.reconnects

    async def join(self, download_id: str, subscriber: Subscriber, principal: Principal = ANONYMOUS) -> Topic | None:
        """The topic, with the subscriber on it: None where no such download exists, or not for this principal.

        The topic comes first and the read second, so that nothing falls between them. While Redis is away the topic
        has no state yet: the subscriber is notified when there is one.

        Raises:
            RedisUnavailable: Redis is away, and so it is not known whether this principal may see it.
        """
        topic = self._topics.get(download_id)
        if topic is None:
            topic = self._topics[download_id] = Topic(download_id)
        if not principal.sees(topic.owners or ()):
            return await self._join_unsure(topic, subscriber, principal)
        topic.subscribers[subscriber] = principal
        if topic.known:
            return topic
        if topic.first_read is None:
            topic.first_read = self._read(download_id)
        try:
            await asyncio.shield(topic.first_read)
        except RedisUnavailable:
            topic.held = topic.stale = True
            topic.first_read = None
            return topic
        except BaseException:
            self.leave(topic, subscriber)
            raise
        if not topic.known:
            self.leave(topic, subscriber)
            return None
        return topic

    async def _join_unsure(self, topic: Topic, subscriber: Subscriber, principal: Principal) -> Topic | None:
        """The same where it is not known whether this principal may see it, or was not a moment ago."""
        topic.waiting.add(subscriber)
        try:
            await asyncio.shield(self._read(topic.id))
            topic.waiting.discard(subscriber)
            if topic.known and principal.sees(topic.owners or ()):
                topic.subscribers[subscriber] = principal
                return topic
            return None
        finally:
            topic.waiting.discard(subscriber)
            self._drop_unwatched(topic)

    async def read_again(self, topic: Topic) -> bool:
        """Whether Redis has the record, which the topic then shows: for a client that has seen more than this one."""
        try:
            await asyncio.shield(self._read(topic.id))
        except RedisUnavailable:
            return False
        return topic.missing_since_s is None

    def leave(self, topic: Topic, subscriber: Subscriber) -> None:
        """Forget this subscriber; with the last one the topic goes too."""
        topic.subscribers.pop(subscriber, None)
        self._drop_unwatched(topic)

    def _drop_unwatched(self, topic: Topic) -> None:
        if not topic.subscribers and not topic.waiting and self._topics.get(topic.id) is topic:
            del self._topics[topic.id]

    async def catch_up(self) -> None:
        """Until everything that was published before this call has been heard here, or cannot come any more."""
        await self._heartbeat.catch_up()

    def watch_all(self, subscriber: Subscriber, principal: Principal = ANONYMOUS) -> None:
        """Put this subscriber on every download that the principal may see and of which something is heard from now
        on.
        """
        self._watchers.add(subscriber, principal)

    def leave_all(self, subscriber: Subscriber) -> None:
        """No more of anything: it leaves every topic that it is on, also those of which it was not told yet."""
        self._watchers.discard(subscriber)
        for topic in [topic for topic in self._topics.values() if subscriber in topic.subscribers]:
            self.leave(topic, subscriber)

    def on_subscribed(self, callback: Callable[[], None]) -> None:
        """Call this whenever the process is subscribed (again): what was said before may have been missed."""
        self._when_subscribed.append(callback)

    # -- the loops ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Everything that keeps the topics current, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in (self._subscription.run, self._deliver, self._read_batches, self._tick, self._heartbeat.run):
                group.create_task(_forever(loop))

    async def _deliver(self) -> None:
        """Tell subscribers of changed topics; topics that ended go first."""
        while True:
            await self._work.wait()
            self._work.clear()
            with self._way.taken():
                while self._ended or self._changed:
                    topic = (self._ended or self._changed).popleft()
                    topic.queued = False
                    topic.spoke_s = time.monotonic()
                    self.frames_sent += await self._tell(topic, _notify)

    async def _read_batches(self) -> None:
        """Read the state of all ids that were asked for meanwhile in one round trip."""
        while True:
            await self._read_wanted.wait()
            self._read_wanted.clear()
            while self._reads:
                wanted = {i: self._reads.pop(i) for i in list(self._reads)[:READ_BATCH]}
                try:
                    states = await self._commands.run(self._tracker.read_states, list(wanted))
                except Exception as error:
                    self._mark(wanted, stale=True)
                    _settle(wanted.values(), error if isinstance(error, RedisUnavailable) else RedisUnavailable())
                    continue
                self._mark(wanted, stale=False)
                for download_id, state in zip(wanted, states, strict=True):
                    self._read_of(download_id, state)
                _settle(wanted.values(), None)

    async def _tick(self) -> None:
        """Keep-alives to the silent, and a second look at downloads of which nothing was heard."""
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for topic in list(self._topics.values()):
                if now - topic.spoke_s >= self._keepalive_s:
                    topic.spoke_s = now
                    await self._tell(topic, _keep_alive)
                if not topic.subscribers and now - topic.heard_s >= SILENCE_S:
                    self._drop_unwatched(topic)
                    continue
                if (topic.stale or now - topic.heard_s >= SILENCE_S) and not topic.terminal:
                    topic.heard_s = now
                    self._request_read(topic.id)

    async def _tell(self, topic: Topic, tell: Callable[[Subscriber, Topic], None]) -> int:
        """Tell everyone who watches this topic, and give their number.

        After each chunk, of whatever topics, other work of the process gets a turn. An error with one client must not
        keep the end from the others.
        """
        subscribers = tuple(topic.subscribers)
        for subscriber in subscribers:
            try:
                tell(subscriber, topic)
            except Exception as error:
                _cut_off(subscriber, error)
            self._told += 1
            if self._told >= CHUNK:
                self._told = 0
                await asyncio.sleep(0)
        return len(subscribers)

    # -- what arrives ------------------------------------------------------------------------------------------------

    def _on_subscribed(self) -> None:
        """Whatever was said until now may have been missed: read every unfinished topic again."""
        self._heartbeat.on_subscribed()
        for topic in self._topics.values():
            if not topic.terminal:
                topic.stale = True
                self._request_read(topic.id)
        for callback in self._when_subscribed:
            callback()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        if self._heartbeat.hear(channel, payload):
            return
        download_id = self._channels.id_of(channel, self._database)
        if download_id is None:
            self._on_owners(channel)
            return
        if download_id not in self._topics and not self._watchers:
            return
        message = parse_message(payload)
        if message is not None:
            if self._watchers:
                self._show_to_watchers(download_id)
            self._learn(download_id, message)

    def _show_to_watchers(self, download_id: str) -> None:
        """Put those on a topic who watch all that they may see. Who may see it is read once, when it is first heard
        of.
        """
        topic = self._topics.get(download_id)
        if topic is None:
            topic = self._topics[download_id] = Topic(download_id)
        if topic.owners is None and self._watchers.some_see_less:
            self._request_read(download_id)
        topic.subscribers.update(self._watchers.of(topic.owners or ()))

    def _on_owners(self, channel: bytes) -> None:
        """Others share a download now. Who, is read: a read that is under way would otherwise undo what was told."""
        download_id = keys.OWNERS_CHANNELS.id_of(channel, self._database)
        if download_id is None or (download_id not in self._topics and not self._watchers):
            return
        self._topics.setdefault(download_id, Topic(download_id))
        self._request_read(download_id)

    def _read_of(self, download_id: str, state: TopicState | None) -> None:
        """What a record says: the latest event, and who may see it."""
        topic = self._topics.get(download_id)
        if topic is None:
            return
        self._learn(download_id, state.message if state is not None else None)
        if state is not None and topic.owners != state.owners:
            self._set_owners(topic, state.owners)
        if topic.terminal:
            self._drop_unwatched(topic)

    def _set_owners(self, topic: Topic, owners: tuple[str, ...]) -> None:
        topic.owners = owners
        gone = [subscriber for subscriber, whom in topic.subscribers.items() if not whom.sees(owners)]
        for subscriber in gone:
            del topic.subscribers[subscriber]
        came = [pair for pair in self._watchers.of(owners).items() if pair[0] not in topic.subscribers]
        topic.subscribers.update(came)
        end = _end_for_one(topic) if gone else topic
        for subscriber in gone:
            _guarded(subscriber, subscriber.withdraw, end)
        for subscriber, _ in came:
            _guarded(subscriber, subscriber.admit, topic)

    def _learn(self, download_id: str, message: Message | None) -> None:
        topic = self._topics.get(download_id)
        if topic is None:
            return
        if message is None:
            self._miss(topic)
        elif topic.accept(message) and (topic.terminal or not topic.queued):
            topic.queued = True
            (self._ended if topic.terminal else self._changed).append(topic)
            self._work.set()

    def _miss(self, topic: Topic) -> None:
        """Redis has no such record. Never known: whoever holds a stream (Redis was away when it came) is told the id
        is unknown.

        Known, and gone now: Redis lost its data. The workers or the disk bring it back; if nobody does, the stream
        must end all the same. That end is told to those who watch and to nobody who comes later: the topic goes, also
        where somebody slow keeps it, for the record may be back by then.
        """
        if not topic.known and not topic.held:
            return
        if topic.id in self._reads:
            return  # asked for again since this read was sent, by somebody for whom this answer may be too old
        now = time.monotonic()
        topic.missing_since_s = topic.missing_since_s or now
        if topic.known and now - topic.missing_since_s < MISSING_S:
            return
        error = errors.DownloadNotFound()
        event = events.Error(message=error.message, code=error.code, status="failed")
        version = Version(max(0, topic.version.fence), topic.version.seq + 1)
        self._learn(topic.id, Message(version, True, events.encode(event)))
        del self._topics[topic.id]

    def _mark(self, download_ids: Iterable[str], *, stale: bool) -> None:
        for download_id in download_ids:
            topic = self._topics.get(download_id)
            if topic is not None:
                topic.stale = stale

    def _read(self, download_id: str) -> asyncio.Future[None]:
        self._request_read(download_id)
        return self._reads[download_id]

    def _request_read(self, download_id: str) -> None:
        if download_id not in self._reads:
            self._reads[download_id] = asyncio.get_running_loop().create_future()
            self._read_wanted.set()


class _Watchers:
    """Those who watch all that they may see, in groups of those who may see the same."""

    def __init__(self) -> None:
        self._see_all: dict[Subscriber, Principal] = {}
        self._by_owner: dict[str, dict[Subscriber, Principal]] = {}

    def __bool__(self) -> bool:
        return bool(self._see_all or self._by_owner)

    @property
    def some_see_less(self) -> bool:
        """Whether there are any who may not see everything."""
        return bool(self._by_owner)

    def of(self, owners: tuple[str, ...]) -> dict[Subscriber, Principal]:
        """Those who may see a download of these owners."""
        if not self._by_owner:
            return self._see_all
        found = dict(self._see_all)
        for owner in owners:
            found.update(self._by_owner.get(owner, {}))
        return found

    def add(self, subscriber: Subscriber, principal: Principal) -> None:
        group = self._see_all if principal.sees_everything else self._by_owner.setdefault(principal.owner, {})
        group[subscriber] = principal

    def discard(self, subscriber: Subscriber) -> None:
        self._see_all.pop(subscriber, None)
        for owner, group in list(self._by_owner.items()):
            group.pop(subscriber, None)
            if not group:
                del self._by_owner[owner]


def _end_for_one(topic: Topic) -> Topic:
    """What somebody is told whose share in a download is over, while it goes on for others."""
    error = errors.Cancelled()
    event = events.Error(message=error.message, code=error.code, status="cancelled")
    end = Topic(topic.id)
    end.accept(Message(Version(max(0, topic.version.fence), topic.version.seq + 1), True, events.encode(event)))
    return end


def _guarded(subscriber: Subscriber, tell: Callable[[Topic], None], topic: Topic) -> None:
    try:
        tell(topic)
    except Exception as error:
        _cut_off(subscriber, error)


def _cut_off(subscriber: Subscriber, error: Exception) -> None:
    """End a stream that hive itself has broken. Left open, its client would wait for ever for what was due just now;
    one that is cut off comes back.
    """
    log.error("a stream failed and is cut off; the others go on", exc_info=error)
    with contextlib.suppress(Exception):
        subscriber.abort()


async def _forever(loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop again when it fails: streams that silently stop would be worse than any error."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("a loop of the fan-out failed; it goes on")
            await asyncio.sleep(TICK_S)


def _notify(subscriber: Subscriber, topic: Topic) -> None:
    subscriber.notify(topic)


def _keep_alive(subscriber: Subscriber, topic: Topic) -> None:
    subscriber.keep_alive()


def _settle(futures: Iterable[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
            future.exception()  # nobody may be waiting: a read that was only a second look
