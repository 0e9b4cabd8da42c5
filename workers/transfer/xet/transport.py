"""Xet: the same bytes out of the Hub's chunk store, through the range streams of hf_xet.

Problem: hf_xet is a native library made for whole files. It checks no content, waits for minutes by default, keeps
gigabytes of buffers, writes a log to the home folder, and cannot be cut off by the flag that Python has. Measured with
1.8.0: a refused token, an unknown file and a time-out may all end the stream *cleanly*, without an error and without a
byte; `cancel()` of a stream raises while another thread reads it; two pieces of one group cannot be ended one by one.

The easy way, its download to a path, gives up resume, journal and cancel. So it is used for one thing: bytes [start,
end) as an iterator, in a session of its own that can be ended (session.py). Every byte is counted, a stream that
ends early is a failure whatever it says, and the digest is ours as for HTTP.

The token for the store is asked for here, over the same guarded connections, proxies and cool-down as everything else,
and not by hf_xet: so the Hub's own token never reaches native code, and making a group touches no network. What hf_xet
then fetches it fetches by itself, past Python's checks of addresses; `HIVE_TRANSPORT=http` does without it.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hive.errors import HiveError
from hive.net.urls import DEFAULT_PORTS
from workers.transfer.control import Control
from workers.transfer.http.pool import HostPool
from workers.transfer.http.transport import HttpTransport
from workers.transfer.limits import Limits
from workers.transfer.source import Location, Source
from workers.transfer.transport import Declined, ExpectedContent, RangesRefused, Throttled, Transient, Unusable
from workers.transfer.xet.session import XetSessions, load

log = logging.getLogger("workers.transfer")

#: Bytes of a token's answer; a token has some 500.
GRANT_MAX_BYTES = 64 * 1024
#: Seconds before its end at which a token is asked for anew: a piece must not begin with a token about to end.
GRANT_MARGIN_S = 60.0
#: Seconds for which all downloads do without a store that has fallen silent, or cannot be reached.
SILENT_REST_S = 600.0
#: The cool-down's name of such a store, before its host: a rest that HTTP does not wait for.
_SILENT = "xet-silent:"
#: Part of the time without a byte that makes a stall, after which a stream that ended without one was silent.
_SILENT_SHARE = 0.5
#: Seconds that the store is left alone when it limits requests; hf_xet does not hand on for how long it asked.
REST_S = 5.0

_HASH = re.compile(r"[0-9a-f]{64}")
#: Errors of hf_xet that another file need not have.
_OF_THE_FILE = {
    "XetAuthenticationError": "the Xet store refuses the token",
    "XetObjectNotFoundError": "not in the store",
}
#: How hf_xet begins the text of its error for a 429.
_RATE_LIMITED = "Rate limited"


def available() -> bool:
    """Whether hf_xet is installed. It is not imported for that: it starts a thread, which must not happen before a
    fork.
    """
    return importlib.util.find_spec("hf_xet") is not None


class Grant(msgspec.Struct, frozen=True, rename="camel"):
    """What the Hub hands out: where the store is, and a token for it until `exp` (unix seconds)."""

    cas_url: str
    access_token: str
    exp: int

    @property
    def host(self) -> str:
        """The store's host, for the cool-down. Raises ValueError when the URL is none."""
        return urlsplit(self.cas_url).hostname or "local"

    def __repr__(self) -> str:
        """Without the token."""
        return f"Grant(exp={self.exp})"


class Xet:
    """The Xet store as one download uses it: one token, and a native session for each stream. Safe from any thread.

    Make it in the process that fetches, and close it, or use it as a context manager.
    """

    def __init__(self, locate_token: Callable[[], Location], pool: HostPool, limits: Limits) -> None:
        """`locate_token` says where the Hub hands out tokens, with the headers it wants to see."""
        self.pool = pool
        self.limits = limits
        self._locate_token = locate_token
        self._tokens = HttpTransport(Source(locate_token, None, None, "a token for Xet"), pool, limits)
        self._lock = threading.Lock()
        self._grant: Grant | None = None
        #: The store's host, and whether it has fallen silent.
        self._host = ""
        self._silent = False
        self.sessions = XetSessions(limits, pool.network.trust)

    def transport(self, xet_hash: str, size: int) -> XetTransport:
        """The way to one file of `size` bytes. Raises ValueError when the hash is none."""
        if not _HASH.fullmatch(xet_hash):
            raise ValueError("not a Xet hash")
        return XetTransport(self, xet_hash, size)

    def grant(self, control: Control) -> Grant:
        """A token that is good for a while. One thread asks while the others wait for what it gets.

        Raises what Transport.open raises.
        """
        with self._lock:
            if self._grant is None or self._grant.exp < time.time() + GRANT_MARGIN_S:
                self._grant = self._ask(control)
                self._host = self._grant.host
            return self._grant

    def rests(self, grant: Grant) -> bool:
        """Whether this download does without the store: it was silent, here or for another worker."""
        if not self._silent and self.pool.cooldown.remaining_s(_SILENT + grant.host) > 0:
            self._silent = True
        return self._silent

    def fell_silent(self) -> None:
        """Leave the store alone for the rest of this download, and tell the others."""
        # Without the lock: whoever asks for a token holds it.
        told, self._silent = self._silent, True
        if not told and self._host:
            log.warning("the Xet store is silent; going on over HTTP", extra={"fields": {"seconds": SILENT_REST_S}})
            self.pool.cooldown.set(_SILENT + self._host, SILENT_REST_S)

    def forget(self, grant: Grant) -> None:
        """The token may be why something failed."""
        with self._lock:
            if self._grant is grant:
                self._grant = None

    def stream(self, grant: Grant, xet_hash: str, size: int, start: int, end: int) -> tuple[Any, Iterator[bytes]]:
        """A session and its only stream. Touches no network. Raises whatever hf_xet does."""
        session = self.sessions.take()
        try:
            group = session.new_download_stream_group(
                endpoint=grant.cas_url, token=grant.access_token, token_expiry_unix_secs=grant.exp
            )
            file = load(self.pool.network.trust).XetFileInfo(xet_hash, size)
            return session, iter(group.download_stream(file, start, end))
        except BaseException:
            session.sigint_abort()
            raise

    def close(self) -> None:
        """End the sessions and their threads. The streams must have been closed."""
        self.sessions.close()
        with self._lock:
            self._grant = None

    def __enter__(self) -> Xet:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ask(self, control: Control) -> Grant:
        stream = self._tokens.open(0, None, ExpectedContent(), control)
        body = bytearray()
        try:
            with control.waking(stream.abort):
                for chunk in stream.chunks():
                    body += chunk
                    if len(body) > GRANT_MAX_BYTES:
                        break
        finally:
            stream.close()
        control.check()
        try:
            grant = msgspec.json.decode(body, type=Grant)
            assert grant.host
        except (msgspec.MsgspecError, ValueError):
            raise Transient("the Hub's answer is no token for Xet") from None
        if not grant.cas_url.startswith("https://") and self._locate_token().url.startswith("https://"):
            raise Transient("the Hub names a Xet store without encryption")
        self._check_store(grant)
        return grant

    def _check_store(self, grant: Grant) -> None:
        """Raise UnsafeUrl for a store in the own network: hf_xet would connect to it without a look."""
        if grant.cas_url.startswith(("http://", "https://")):
            parts = urlsplit(grant.cas_url)
            self.pool.network.check_proxied(grant.host, parts.port or DEFAULT_PORTS[parts.scheme])


@dataclass
class _Attempt:
    """One stream's part in the count of failures: streams that fail together are one failure."""

    grant: Grant
    incident: int
    #: When it began (monotonic).
    began_s: float


class XetTransport:
    """The bytes of one file over Xet; see Transport. Gives itself up after some failures in a row."""

    name = "xet"

    def __init__(self, xet: Xet, xet_hash: str, size: int) -> None:
        limits = xet.limits
        #: The engine's numbers as they suit this way.
        self.limits = replace(
            limits,
            part_min_bytes=limits.xet_part_bytes,
            part_max_bytes=limits.xet_part_bytes,
            steal_min_bytes=limits.xet_steal_min_bytes,
            connections_max=min(limits.connections_max, limits.xet_streams_max),
        )
        self.size = size
        self.xet = xet
        self._hash = xet_hash
        self._lock = threading.Lock()
        self._incidents = 0
        self._in_a_row = 0

    def open(self, start: int, end: int | None, known: ExpectedContent, control: Control) -> XetStream:
        """See Transport.open."""
        grant = self._grant(control)
        if self.xet.rests(grant):
            raise Unusable("the Xet store was silent", self)
        attempt = _Attempt(grant, self._incidents, time.monotonic())
        rest_s = self.xet.pool.cooldown.remaining_s(grant.host)
        if rest_s > 0:
            raise Throttled("the Xet store asked for a rest", rest_s)
        end = self.size if end is None else end
        try:
            session, chunks = self.xet.stream(grant, self._hash, self.size, start, end)
        except BaseException as error:
            raise self.failed(attempt, error) from None
        return XetStream(self, attempt, session, chunks, start, end - start)

    def refresh(self) -> None:
        """See Transport.refresh."""
        with self._lock:
            self._in_a_row = 0

    def fell_silent(self) -> None:
        """See Remembering."""
        self.xet.fell_silent()

    def moved(self) -> None:
        """A byte came: whatever failed before has passed."""
        if self._in_a_row:
            with self._lock:
                self._in_a_row = 0

    def failed(self, attempt: _Attempt, error: BaseException) -> BaseException:
        """What to raise for a failure: try again, wait, or leave the file to another transport.

        Never hf_xet's own text, which holds URLs.
        """
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            return error
        self.xet.forget(attempt.grant)
        if str(error).startswith(_RATE_LIMITED):
            self.xet.pool.cooldown.set(attempt.grant.host, REST_S)
            return Throttled("the Xet store limits requests", REST_S)
        failure = self._counted(attempt.incident, _words(error))
        if isinstance(failure, Unusable) and self._is_of_the_store(attempt, error):
            self.xet.fell_silent()
        return failure

    def _is_of_the_store(self, attempt: _Attempt, error: BaseException) -> bool:
        """Whether a failure says something of the store, and not of this file or of its token alone."""
        waited_s = time.monotonic() - attempt.began_s
        unreachable = isinstance(error, ConnectionError) and type(error).__name__ not in _OF_THE_FILE
        return unreachable or waited_s >= _SILENT_SHARE * self.limits.stall_s

    def _counted(self, incident: int, reason: str) -> Exception:
        with self._lock:
            if incident == self._incidents:
                self._incidents += 1
                self._in_a_row += 1
            worn_out = self._in_a_row >= self.limits.xet_failures_max
        return Unusable(reason, self) if worn_out else Transient(reason)

    def _grant(self, control: Control) -> Grant:
        incident = self._incidents
        try:
            return self.xet.grant(control)
        except Transient as failure:
            raise self._counted(incident, str(failure)) from None
        except (HiveError, RangesRefused, Declined) as refusal:
            control.check()
            # The Hub hands out no token: Xet is switched off for this repository, or this token may not use it. HTTP
            # has its own answer to that.
            error = refusal.error if isinstance(refusal, Declined) else refusal
            code = error.code if isinstance(error, HiveError) else "no token"
            raise Unusable(f"the Hub hands out no token for Xet ({code})", self) from None


class XetStream:
    """See ByteStream. Always a range: the size is known, and what is short is asked for again."""

    whole = False
    validator = ""
    etag: str | None = None

    def __init__(
        self, way: XetTransport, attempt: _Attempt, session: Any, chunks: Iterator[bytes], start: int, n_bytes: int
    ) -> None:
        self.start = start
        self.total: int | None = way.size
        self._way = way
        self._attempt = attempt
        self._session = session
        self._lock = threading.Lock()
        self._chunks = chunks
        self._given: Generator[memoryview, None, None] | None = None
        self._left = n_bytes
        self._aborted = False

    def chunks(self) -> Iterator[memoryview]:
        """See ByteStream.chunks. hf_xet gives a whole run at a time; it is handed on in the engine's measure."""
        self._given = self._give()
        return self._given

    def abort(self) -> None:
        """See ByteStream.abort."""
        self._aborted = True
        session = self._take_session()
        if session is not None:
            session.sigint_abort()

    def close(self) -> None:
        """See ByteStream.close."""
        session = self._take_session()
        if session is not None and self._left == 0:
            self._way.xet.sessions.give_back(session)
        elif session is not None:
            session.sigint_abort()
        # What is held goes now: an error that is kept refers to this stream, and tens of megabytes would stay with it
        # until Python looks for cycles.
        if self._given is not None:
            self._given.close()
        self._chunks = iter(())

    def _give(self) -> Generator[memoryview, None, None]:
        step = self._way.limits.read_bytes
        while self._left > 0:
            # Let go of before the next one is awaited, by whoever took the last part of it too: else each stream holds
            # two.
            with memoryview(self._next()) as data:
                n_bytes = min(len(data), self._left)
                self._left -= n_bytes
                for at in range(0, n_bytes, step):
                    with data[at : min(at + step, n_bytes)] as part:
                        yield part

    def _take_session(self) -> Any:
        """The session, once: a late `abort` must not end the next stream's."""
        with self._lock:
            session, self._session = self._session, None
        return session

    def _next(self) -> bytes:
        """The next bytes, at least one."""
        try:
            data = next(self._chunks, b"")
            if not data and not self._aborted:
                raise EOFError
        except BaseException as error:
            if self._aborted and isinstance(error, Exception):
                raise Transient("the transfer over Xet was given up") from None
            raise self._way.failed(self._attempt, error) from None
        if not data:
            raise Transient("the transfer over Xet was given up")
        self._way.moved()
        return data


def _words(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the transfer over Xet ended early"
    if isinstance(error, ImportError):
        return "hf_xet cannot be imported"
    if isinstance(error, ConnectionError):
        return _OF_THE_FILE.get(type(error).__name__, "the Xet store cannot be reached, or fails")
    return _OF_THE_FILE.get(type(error).__name__, f"the transfer over Xet failed ({type(error).__name__})")
