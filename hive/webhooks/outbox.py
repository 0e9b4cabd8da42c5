"""WebhookOutbox that wait to be sent: what lies in Redis of them, and the scripts that change it.

Problem: an end must be told at least once, though the process that is telling it may die with the message in hand, and
not by two processes at once. The easy way, a job on the queue, tells twice or never when its worker dies, and knows no
waits of hours. So what is due lies in a sorted set by time, put there in one step with the end itself (`_NOTIFY` in
the scripts). A process takes a message by moving its time ahead, beyond the longest try; one that dies leaves it
to whoever looks then. The time it set is its ticket: whoever comes late with an old one changes nothing.

A URL may be a secret, so those of requests lie in Redis encrypted, and those of the settings not at all: only their
names do, which mean something to those alone who have hive's key. The servers write these names again and again; a
name that no server has written for ten minutes is withdrawn by those that still run.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from hive.errors import BadRequest, RedisUnavailable, TooManyWebhooks
from hive.net.addresses import AddressCheck, address_check
from hive.net.urls import Url, parse_url
from hive.redis_client import RedisClient
from hive.secrets import fingerprint, seal_text, unseal_text
from hive.settings import Settings
from hive.wire import keys

#: WebhookOutbox of one download that its requests may bring.
MAX_PER_DOWNLOAD: Final = 8
#: Times the time-out of a try that a taken message stays hidden: one for the wait before it, one for the try, one to
#: tell Redis.
HIDDEN_TIMEOUTS: Final = 3
#: Seconds that what belongs to a message is kept after its last try: longer than any wait between two.
KEPT_S: Final = 3 * 86_400
#: Seconds that a webhook of the settings counts when no server is there to write it again, and after which the servers
#: that run withdraw one that nobody writes any more; it is written when it is older than the third.
STANDING_S: Final = 7 * 86_400
WITHDRAWN_AFTER_S: Final = 600
REWRITTEN_AFTER_S: Final = 60
#: Seconds after which a message that nobody took is dropped: its download is forgotten by then.
DROPPED_AFTER_S: Final = 8 * 86_400
#: Stands for the address of a name that was not resolved yet: of such a URL only the port is judged.
_ANY_PUBLIC: Final = "1.1.1.1"

_PRELUDE: Final = """
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function int(n) return string.format('%.0f', n) end
"""

#: KEYS: record, its webhooks, due. ARGV: id, name, sealed URL, most, kept_s.
#: -> 'added', 'full', 'gone' (no such download). Of one that has ended, the message is due at once and has a name of
#: its own: this request is to hear of the end that others have heard of.
ADD: Final = (
    _PRELUDE
    + """
local terminal = redis.call('HGET', KEYS[1], 'terminal')
if not terminal then return 'gone' end
local name = ARGV[2]
if terminal == '1' then name = name .. '-' .. int(now_ms()) end
if redis.call('HEXISTS', KEYS[2], 't:' .. name) == 0 then
  local others = 0
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(field, 1, 2) == 't:' then others = others + 1 end
  end
  if others >= tonumber(ARGV[4]) then return 'full' end
  redis.call('HSET', KEYS[2], 't:' .. name, ARGV[3])
end
if terminal == '1' then
  redis.call('ZADD', KEYS[3], int(now_ms()), ARGV[1] .. '/' .. name)
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
return 'added'
"""
)

#: KEYS: due, standing. ARGV: most, hidden_ms, kept_s, standing_ms, withdrawn_after_ms, rewritten_after_ms,
#:   dropped_after_ms, then the names of the settings' webhooks.
#: -> {{id/name, ticket, number of this try, sealed URL or '', body or ''}, ...}
TAKE: Final = (
    _PRELUDE
    + """
local now = now_ms()
for i = 8, #ARGV do
  local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]) or '0')
  if until_ms < now + ARGV[4] - ARGV[6] then redis.call('ZADD', KEYS[2], int(now + ARGV[4]), ARGV[i]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now + ARGV[4] - ARGV[5]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', int(now - ARGV[7]))
local found = {}
if ARGV[1] == '0' then return found end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])) do
  local id, name = string.match(member, '^([^/]+)/(.+)$')
  local own = 'hive:webhooks:{' .. id .. '}'
  local ticket = int(now + ARGV[2])
  redis.call('ZADD', KEYS[1], ticket, member)
  local number = redis.call('HINCRBY', own, 'n:' .. name, 1)
  redis.call('EXPIRE', own, ARGV[3])
  local kept = redis.call('HMGET', own, 't:' .. name, 'body')
  found[#found + 1] = {member, ticket, number, kept[1] or '', kept[2] or ''}
end
return found
"""
)

#: KEYS: due, the download's webhooks. ARGV: id/name, ticket, wait_ms, body or ''. -> 1, or 0 for an old ticket.
POSTPONE: Final = (
    _PRELUDE
    + """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZADD', KEYS[1], int(now_ms() + ARGV[3]), ARGV[1])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], 'body', ARGV[4]) end
return 1
"""
)

#: KEYS: due, the download's webhooks. ARGV: id/name, name.
DONE: Final = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], 't:' .. ARGV[2], 'n:' .. ARGV[2])
local left = redis.call('HKEYS', KEYS[2])
if #left == 1 and left[1] == 'body' then redis.call('DEL', KEYS[2]) end
return 1
"""


class Message(NamedTuple):
    """A webhook that is to be sent now, by whoever got it: `number` of this try from 1, `body` of the tries before."""

    download_id: str
    name: str
    ticket: str
    number: int
    sealed_url: bytes
    body: bytes

    @property
    def id(self) -> str:
        """What the receiver tells messages apart by: the same for every try, and for all who hear of this end."""
        late = self.name.partition("-")[2]
        return f"{self.download_id}-{late}" if late else self.download_id

    @property
    def member(self) -> str:
        """What lies in the sorted set."""
        return f"{self.download_id}/{self.name}"


class Target(NamedTuple):
    """Where a message goes; `check` is None where the settings name it, which may mean a private address."""

    url: Url
    check: AddressCheck | None


class WebhookOutbox:
    """What is due, over one blocking Redis client. Methods that take or give a `Message` raise redis-py's errors."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._key_file = settings.secret_key_path
        self._check = address_check(settings.allowed_hosts)
        self._hidden_ms = int(settings.webhook_timeout_s * HIDDEN_TIMEOUTS * 1000)
        self._standing: dict[str, Url] | None = None
        self._add, self._take = client.register_script(ADD), client.register_script(TAKE)
        self._postpone, self._done = client.register_script(POSTPONE), client.register_script(DONE)

    def read(self, text: str) -> Url:
        """The webhook of a request. A host's name is resolved and checked when the message is sent.

        Raises:
            BadRequest: hive has no secret to sign it with.
            UnsafeUrl: it is no plain URL, or its address or port is not one that hive connects to.
        """
        if self._settings.webhook_key is None:
            raise BadRequest("'webhook_url' needs a server with HIVE_WEBHOOK_SECRET, and this one has none.")
        url = parse_url(text)
        for ip in _numeric_addresses(url):
            self._check(ip, url.host, url.port)
        return url

    def add(self, download_id: str, url: Url) -> None:
        """Tell this URL of the download's end; at once where it has ended. Twice is once.

        Raises:
            TooManyWebhooks: the download has as many as it may have.
            RedisUnavailable: the download is gone since it was made, because Redis lost its data.
        """
        sealed = seal_text(str(url), self._key_file)
        said = self._add(
            keys=[keys.record(download_id), keys.webhooks(download_id), keys.WEBHOOKS_DUE],
            args=[download_id, fingerprint(str(url), self._key_file), sealed, MAX_PER_DOWNLOAD, KEPT_S],
        )
        if said == b"full":
            raise TooManyWebhooks(most=MAX_PER_DOWNLOAD)
        if said == b"gone":
            raise RedisUnavailable

    def take(self, most: int) -> list[Message]:
        """Messages that are due, for this process alone until they come back by themselves; and says which webhooks
        the settings have.
        """
        times_s = (STANDING_S, WITHDRAWN_AFTER_S, REWRITTEN_AFTER_S, DROPPED_AFTER_S)
        found = self._take(
            keys=[keys.WEBHOOKS_DUE, keys.WEBHOOKS_STANDING],
            args=[most, self._hidden_ms, KEPT_S, *(s * 1000 for s in times_s), *self._named()],
        )
        messages = []
        for member, ticket, number, sealed_url, body in found:
            download_id, _, name = member.decode().partition("/")
            messages.append(Message(download_id, name, ticket.decode(), number, sealed_url, body))
        return messages

    def target(self, message: Message) -> Target | None:
        """Where it goes; None for a webhook of settings that are not this process's.

        Raises:
            SecretKeyError: the URL was encrypted with another key.
        """
        if (url := self._named().get(message.name)) is not None:
            return Target(url, None)
        if not message.sealed_url:
            return None
        return Target(parse_url(unseal_text(message.sealed_url, self._key_file)), self._check)

    def is_known(self, message: Message) -> bool:
        """Whether a server that runs has this webhook in its settings."""
        return self._redis.zscore(keys.WEBHOOKS_STANDING, message.name) is not None

    def postpone(self, message: Message, wait_s: float, body: bytes = b"") -> bool:
        """Send it again after so many seconds, with this body. False when another process has it by now."""
        own = [keys.WEBHOOKS_DUE, keys.webhooks(message.download_id)]
        return bool(self._postpone(keys=own, args=[message.member, message.ticket, int(wait_s * 1000), body]))

    def done(self, message: Message) -> None:
        """It was taken, or is given up."""
        own = [keys.WEBHOOKS_DUE, keys.webhooks(message.download_id)]
        self._done(keys=own, args=[message.member, message.name])

    def _named(self) -> dict[str, Url]:
        """The webhooks of the settings by their names."""
        if self._standing is None:
            self._standing = {fingerprint(str(url), self._key_file): url for url in self._settings.webhooks}
        return self._standing


def _numeric_addresses(url: Url) -> list[str]:
    """The address that a host is in one of its many spellings, without asking the network; one that tells nothing for
    a name.
    """
    host = url.host.strip("[]")
    if host.rstrip(".").rpartition(".")[2] == "localhost":
        return ["127.0.0.1"]
    try:
        found = socket.getaddrinfo(host.rstrip("."), url.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return [_ANY_PUBLIC]
    return [str(address[0]) for *_, address in found]
