"""Tickets and sessions: what stands for a key where no header can be sent. Signed, expiring, without state.

Problem: a browser's EventSource sends no headers, and a key in an address ends up in histories and logs. The easy way,
a random ticket that is good once, breaks EventSource, which connects again by itself with the same address. So:

    a ticket     in `?ticket=`, for streams only, read only, for an hour at most; for named downloads, or all that its
                 key sees; usable again until it expires
    a session    in a cookie of a page of this very origin; it may do what its key may, for half a day at most

Both are `v1.<payload>.<HMAC-SHA256>`. The payload names the key that asked for it, and is dead when that key is; a
ticket that a session asked for also when that session is. The signing keys are derived from the secret key file that
all replicas share, one for each kind: neither can be used as the other. Nothing of the API key is in them, and nobody
who may write to Redis can make one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from hive.auth.key_ring import KeyRing
from hive.auth.keys import new_session_id
from hive.auth.principal import Principal
from hive.errors import InvalidApiKey
from hive.key_file import read_key_file
from hive.secrets import check_key
from hive.wire.api import MAX_TICKET_TTL_S

#: Seconds of a session's life.
SESSION_TTL_S: Final = 12 * 3600
#: Characters of the longest one that is looked at: a ticket for 100 downloads has some 5,300.
MAX_TOKEN_CHARS: Final = 8192
_VERSION: Final = "v1"

T = TypeVar("T", bound=msgspec.Struct)


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """What a ticket says."""

    key_id: str
    #: Unix seconds.
    expires_s: float
    #: None: all.
    downloads: tuple[str, ...] | None
    #: The session that asked for it; "" where a key did.
    session_id: str = ""


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What a session's cookie says."""

    key_id: str
    #: Unix seconds.
    expires_s: float
    id: str


class Made(NamedTuple):
    """A ticket or a session: its text, and when it ends in Unix seconds."""

    text: str
    expires_s: float

    def __repr__(self) -> str:
        return f"Made(***, expires_s={self.expires_s})"


class Tickets:
    """Tickets for streams."""

    def __init__(self, ring: KeyRing, secret_file: Path) -> None:
        self._ring = ring
        self._signer = Signer(b"hive ticket v1", secret_file)

    def make(self, principal: Principal, downloads: tuple[str, ...] | None, ttl_s: float) -> Made:
        """A ticket of this principal's key, for these downloads or all. It ends with its maker at the latest.

        Raises:
            StoreNotWritable: the secret key cannot be read.
        """
        expires_s = _earliest(time.time() + min(ttl_s, MAX_TICKET_TTL_S), principal.expires_s)
        ticket = Ticket(principal.key_id, expires_s, downloads, principal.session_id)
        return Made(self._signer.sign(ticket), expires_s)

    def principal(self, text: str) -> Principal:
        """Who asks with this ticket.

        Raises:
            InvalidApiKey: it is altered, not ours, expired, or its key or session is dead.
            KeyFileUnusable: nothing is known of its key.
        """
        ticket = self._signer.read(text, Ticket)
        with _no_guess():
            return self._principal(ticket)

    def _principal(self, ticket: Ticket) -> Principal:
        key = self._ring.key_principal(ticket.key_id)
        is_over = time.time() >= ticket.expires_s or self._ring.is_ended(ticket.session_id)
        if is_over or not key.may("read"):
            raise InvalidApiKey
        return replace(
            key,
            scopes=frozenset({"read"}),
            expires_s=_earliest(ticket.expires_s, key.expires_s),
            downloads=None if ticket.downloads is None else frozenset(ticket.downloads),
            sees_all=key.may("admin"),
            session_id=ticket.session_id,
        )


class Sessions:
    """Sessions of pages."""

    def __init__(self, ring: KeyRing, secret_file: Path) -> None:
        self._ring = ring
        self._signer = Signer(b"hive session v1", secret_file)

    def make(self, principal: Principal) -> Made:
        """A session of this principal's key.

        Raises:
            StoreNotWritable: the secret key cannot be read.
        """
        expires_s = _earliest(time.time() + SESSION_TTL_S, principal.expires_s)
        return Made(
            self._signer.sign(Session(principal.key_id, expires_s, new_session_id(principal.key_id))), expires_s
        )

    def principal(self, text: str) -> Principal:
        """Who asks with this session.

        Raises:
            InvalidApiKey: it is altered, not ours, expired or ended, or its key is dead.
            KeyFileUnusable: nothing is known of its key.
        """
        session = self._signer.read(text, Session)
        with _no_guess():
            return self._principal(session)

    def _principal(self, session: Session) -> Principal:
        key = self._ring.key_principal(session.key_id)
        if time.time() >= session.expires_s or self._ring.is_ended(session.id):
            raise InvalidApiKey
        return replace(key, expires_s=_earliest(session.expires_s, key.expires_s), session_id=session.id)

    def end(self, text: str) -> None:
        """End a session on every replica. What is none, or has ended, is no matter. Blocks.

        Raises:
            KeyFileUnusable: it cannot be noted, and has ended in this process alone.
        """
        try:
            session = self._signer.read(text, Session)
        except InvalidApiKey:
            return
        if time.time() < session.expires_s and not self._ring.is_ended(session.id):
            self._ring.end_session(session.id, session.expires_s)


class Signer:
    """Signs and checks what is made of one kind of struct."""

    def __init__(self, label: bytes, secret_file: Path) -> None:
        """The signing key is derived from that file when it is first needed."""
        self._label = label
        self._secret_file = secret_file
        self._key: bytes | None = None

    def sign(self, content: msgspec.Struct) -> str:
        """The signed text."""
        payload = f"{_VERSION}.{_encode(msgspec.json.encode(content))}"
        return f"{payload}.{_encode(self._mac(payload))}"

    def read(self, text: str, kind: type[T]) -> T:
        """What was signed.

        Raises:
            InvalidApiKey: it is not whole, or was not signed by this server or its replicas.
        """
        payload, _, mac = text[:MAX_TOKEN_CHARS].rpartition(".")
        version, _, body = payload.partition(".")
        is_right = hmac.compare_digest(_encode(self._mac(payload)).encode(), mac.encode("utf-8", "replace"))
        if not is_right or version != _VERSION:
            raise InvalidApiKey
        try:
            return msgspec.json.decode(_decode(body), type=kind)
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            raise InvalidApiKey from None

    def _mac(self, payload: str) -> bytes:
        if self._key is None:
            check_key(self._secret_file)
            self._key = hmac.digest(read_key_file(self._secret_file), self._label, hashlib.sha256)
        return hmac.digest(self._key, payload.encode("utf-8", "replace"), hashlib.sha256)


@contextlib.contextmanager
def _no_guess() -> Iterator[None]:
    """What is refused inside the block has our signature: it was right once, and whoever shows it has guessed nothing.
    A page that comes again and again with a ticket that is over must not use up what its address may get wrong.
    """
    try:
        yield
    except InvalidApiKey as error:
        error.is_guess = False
        raise


def _earliest(expires_s: float, other_s: float | None) -> float:
    return expires_s if other_s is None else min(expires_s, other_s)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
