"""Transactional outbox of webhooks: what waits to be sent lies in Redis, and scripts change it.

Problem: an end must be told at least once, though the process that is telling it may die with the message in hand, and
not by two processes at once. The easy way, a job on the queue, tells twice or never when its worker dies, and knows no
waits of hours. So what is due lies in a sorted set by time, put there in one step with the end itself (notify.lua in
downloads/scripts). A process takes a message by moving its time ahead, beyond the longest try; one that dies leaves it
to whoever looks then. The time it set is its ticket: whoever comes late with an old one changes nothing.

A URL may be a secret, so those of requests lie in Redis encrypted, and those of the settings not at all: only their
names do, which mean something to those alone who have hive's key. The servers write these names again and again; a
name that no server has written for ten minutes is withdrawn by those that still run.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from hive.errors import BadRequest, RedisUnavailable, TooManyWebhooks
from hive.net.addresses import ANY_PUBLIC, AddressCheck, address_check
from hive.net.urls import Url, parse_url
from hive.redis.client import RedisClient
from hive.redis.lua import Script, load
from hive.secrets import Purpose, fingerprint, seal_text, unseal_text
from hive.settings import Settings
from hive.webhooks.signature import as_secret, derived_key
from hive.wire import keys

#: Webhooks of one download that its requests may bring.
MAX_PER_DOWNLOAD: Final = 8
#: Messages of requests that a process has under way to one host, and of one owner: so that a receiver that does not
#: answer, or sixty of them, keep nobody else's waiting. Those of the settings are not counted, and wait for none.
MAX_PER_HOST: Final = 2
MAX_PER_OWNER: Final = 4
#: Messages that are looked at for some that may be sent now, and milliseconds for which those step aside that may not.
MAX_SCANNED: Final = 5_000
ASIDE_MS: Final = 500
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
#: Seconds; a message that is due later than that was put there by a clock that has been set back.
WAIT_MAX_S: Final = 2 * 86_400
#: Seconds after which a message that nobody took is dropped: its download is forgotten by then.
DROPPED_AFTER_S: Final = 8 * 86_400


class WebhookMessage(NamedTuple):
    """A webhook that is to be sent now, by whoever got it: `number` of this try from 1, `body` of the tries before;
    `host`: a name for where it goes, "" where that is not known; `of_settings`: the settings have it.
    """

    download_id: str
    name: str
    ticket: str
    number: int
    sealed_url: bytes
    body: bytes
    host: str = ""
    of_settings: bool = False

    @property
    def owner_mark(self) -> str:
        """Whose request brought it; "" where nobody has a key."""
        return self.name[self.name.find(".") :] if "." in self.name else ""

    @property
    def id(self) -> str:
        """What the receiver tells messages apart by: the same for every try, and for all who hear of this end."""
        late = self.name.partition("-")[2].partition(".")[0]
        return f"{self.download_id}-{late}" if late else self.download_id

    @property
    def member(self) -> str:
        """What lies in the sorted set."""
        return f"{self.download_id}/{self.name}"


class WebhookTarget(NamedTuple):
    """Where a message goes; `check` is None where the settings name it, which may mean a private address."""

    url: Url
    check: AddressCheck | None
    #: What it is signed with.
    key: bytes


class WebhookOutbox:
    """What is due, over one blocking Redis client. Methods that take or give a message raise redis-py's errors."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self._redis = client
        self._settings = settings
        self._key_file = settings.secret_key_path
        self._check = address_check(settings.allowed_hosts)
        self._hidden_ms = int(settings.webhook_timeout_s * HIDDEN_TIMEOUTS * 1000)
        self._standing: dict[str, Url] | None = None
        self._add, self._take, self._postpone, self._done = (
            Script(client, load("hive.webhooks", name)) for name in ("add", "take", "postpone", "done")
        )

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

    def add(self, download_id: str, url: Url, owner: str = "") -> None:
        """Tell this URL of the download's end; at once where it has ended. Twice is once. It goes with the share that
        `owner` has in the download.

        Raises:
            TooManyWebhooks: the download has as many of this owner as it may have.
            RedisUnavailable: the download is gone since it was made, because Redis lost its data.
        """
        sealed = seal_text(str(url), self._key_file, Purpose("webhook", download_id))
        mark = keys.owner_mark(owner)
        said = self._add(
            record=keys.record(download_id),
            webhooks=keys.webhooks(download_id),
            due=keys.WEBHOOKS_DUE,
            id=download_id,
            name=fingerprint(str(url), self._key_file) + mark,
            sealed_url=sealed,
            max_per_download=MAX_PER_DOWNLOAD,
            kept_s=KEPT_S,
            mark=mark,
            host=fingerprint(f"host {url.host.rstrip('.')}", self._key_file),
        )
        if said == b"full":
            raise TooManyWebhooks(most=MAX_PER_DOWNLOAD)
        if said == b"gone":
            raise RedisUnavailable

    def secret(self, url: Url, owner: str = "") -> str | None:
        """What the receiver of this webhook of a request checks with; None where the settings have the same one."""
        if not owner and url in self._settings.webhooks:
            return None
        key = self._settings.webhook_key
        return as_secret(derived_key(key, keys.owner_mark(owner), str(url))) if key is not None else None

    def take(
        self, most: int, most_own: int | None = None, under_way: Iterable[WebhookMessage] = ()
    ) -> list[WebhookMessage]:
        """Messages that are due, for this process alone until they come back by themselves; and says which webhooks
        the settings have. `most` of requests, `most_own` of the settings (as many where not given), beside those that
        are `under_way`.
        """
        busy: Counter[str] = Counter()
        for one in under_way:
            if not one.of_settings:
                busy.update((f"h:{one.host}", f"o:{one.owner_mark}"))
        found = self._take(
            self._named(),
            due=keys.WEBHOOKS_DUE,
            standing=keys.WEBHOOKS_STANDING,
            most=most,
            most_own=most if most_own is None else most_own,
            per_host=MAX_PER_HOST,
            per_owner=MAX_PER_OWNER,
            busy="".join(f"{what}={number}," for what, number in busy.items()),
            scanned=MAX_SCANNED,
            aside_ms=ASIDE_MS,
            hidden_ms=self._hidden_ms,
            kept_s=KEPT_S,
            standing_ms=STANDING_S * 1000,
            withdrawn_after_ms=WITHDRAWN_AFTER_S * 1000,
            rewritten_after_ms=REWRITTEN_AFTER_S * 1000,
            dropped_after_ms=DROPPED_AFTER_S * 1000,
            wait_max_ms=WAIT_MAX_S * 1000,
        )
        messages = []
        for member, ticket, number, sealed_url, body, host, of_settings in found:
            download_id, _, name = member.decode().partition("/")
            at = (ticket.decode(), number, sealed_url, body, host.decode("utf-8", "replace"), bool(of_settings))
            messages.append(WebhookMessage(download_id, name, *at))
        return messages

    def target(self, message: WebhookMessage) -> WebhookTarget | None:
        """Where it goes; None for a webhook of settings that are not this process's.

        Raises:
            SecretKeyError: the URL was encrypted with another key, or for another download.
        """
        key = self._settings.webhook_key
        assert key is not None
        if (url := self._named().get(message.name)) is not None:
            return WebhookTarget(url, None, key)
        if not message.sealed_url:
            return None
        purpose = Purpose("webhook", message.download_id)
        url = parse_url(unseal_text(message.sealed_url, self._key_file, purpose))
        return WebhookTarget(url, self._check, derived_key(key, message.owner_mark, str(url)))

    def is_known(self, message: WebhookMessage) -> bool:
        """Whether a server that runs has this webhook in its settings."""
        return self._redis.zscore(keys.WEBHOOKS_STANDING, message.name) is not None

    def postpone(self, message: WebhookMessage, wait_s: float, body: bytes = b"") -> bool:
        """Send it again after so many seconds, with this body. False when another process has it by now."""
        done = self._postpone(
            due=keys.WEBHOOKS_DUE,
            webhooks=keys.webhooks(message.download_id),
            member=message.member,
            ticket=message.ticket,
            wait_ms=int(wait_s * 1000),
            body=body,
        )
        return bool(done)

    def done(self, message: WebhookMessage) -> None:
        """It was taken, or is given up."""
        self._done(
            due=keys.WEBHOOKS_DUE,
            webhooks=keys.webhooks(message.download_id),
            member=message.member,
            name=message.name,
        )

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
        return [ANY_PUBLIC]
    return [str(address[0]) for *_, address in found]
