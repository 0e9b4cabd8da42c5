"""Xet: the same bytes out of the Hub's chunk store, through the range streams of hf_xet.

Problem: hf_xet is a native library made for whole files. It checks no content, waits for minutes by default, keeps a
gigabyte of buffers, writes a log to the home folder, and cannot be cut off by the flag that Python has. Measured with
1.8.0: a refused token, an unknown file and a time-out may all end the stream *cleanly*, without an error and without a
byte; `cancel()` of a stream raises while another thread reads it; two pieces of one group cannot be ended one by one.

The easy way, its download to a path, gives up resume, journal and cancel. So it is used for one thing: bytes [start,
end) as an iterator, in a group of its own that can be aborted (2 ms), in a session made by the process that uses it.
Every byte is counted, a stream that ends early is a failure whatever it says, and the digest is ours as for HTTP.

The token for the store is asked for here, over the same guarded connections, proxies and cool-down as everything else,
and not by hf_xet: so the Hub's own token never reaches native code, and making a group touches no network. What hf_xet
then fetches it fetches by itself, past Python's checks of addresses; `HIVE_TRANSPORT=http` does without it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hive.errors import HiveError
from workers.transfer.control import Control
from workers.transfer.http import HttpTransport
from workers.transfer.limits import Limits
from workers.transfer.pool import HostPool
from workers.transfer.source import Location, Source
from workers.transfer.transport import Known, RangesRefused, Throttled, Transient, Unusable

#: Bytes of a token's answer; a token has some 500.
GRANT_MAX_BYTES = 64 * 1024
#: Seconds before its end at which a token is asked for anew: a piece must not begin with a token about to end.
GRANT_MARGIN_S = 60.0
#: Seconds that the store is left alone when it limits requests; hf_xet does not hand on for how long it asked.
REST_S = 5.0
#: Tries of one request inside hf_xet, beyond the first, and the pause before the first of them in ms. The engine tries
#: again by itself.
RETRIES = 2
RETRY_BASE_DELAY_MS = 500
#: Bytes that hf_xet fetches ahead: for the session, more for each stream, and at most. Below the 64 MiB of one of the
#: store's blocks its streams were seen to wait for each other for ever; the defaults are 1.5 to 6 GB.
BUFFER_BYTES = 160_000_000
BUFFER_PER_STREAM_BYTES = 80_000_000
BUFFER_MAX_BYTES = 320_000_000

_HASH = re.compile(r"[0-9a-f]{64}")
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
    """The Xet store as one download uses it: one native session, one token at a time. Safe from any thread.

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
        self._native: Any = None
        self._session: Any = None

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
            return self._grant

    def forget(self, grant: Grant) -> None:
        """The token may be why something failed."""
        with self._lock:
            if self._grant is grant:
                self._grant = None

    def stream(self, grant: Grant, xet_hash: str, size: int, start: int, end: int) -> tuple[Any, Iterator[bytes]]:
        """A group and its only stream. Touches no network. Raises whatever hf_xet does."""
        native, session = self._open_session()
        group = session.new_download_stream_group(
            endpoint=grant.cas_url, token=grant.access_token, token_expiry_unix_secs=grant.exp
        )
        return group, iter(group.download_stream(native.XetFileInfo(xet_hash, size), start, end))

    def close(self) -> None:
        """End the session and its threads. The streams must have been closed."""
        with self._lock:
            self._session = None
            self._grant = None

    def __enter__(self) -> Xet:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ask(self, control: Control) -> Grant:
        stream = self._tokens.open(0, None, Known(), control)
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
        return grant

    def _open_session(self) -> tuple[Any, Any]:
        with self._lock:
            if self._session is None:
                self._native = _import_native(self.pool.network.ca_bundle)
                self._session = self._native.XetSession(_config(self._native, self.limits))
            return self._native, self._session


@dataclass
class _Attempt:
    """One stream's part in the count of failures: streams that fail together are one failure."""

    grant: Grant
    incident: int


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
        self._xet = xet
        self._hash = xet_hash
        self._lock = threading.Lock()
        self._incidents = 0
        self._in_a_row = 0

    def open(self, start: int, end: int | None, known: Known, control: Control) -> XetStream:
        """See Transport.open."""
        grant = self._grant(control)
        attempt = _Attempt(grant, self._incidents)
        rest_s = self._xet.pool.cooldown.remaining_s(grant.host)
        if rest_s > 0:
            raise Throttled("the Xet store asked for a rest", rest_s)
        end = self.size if end is None else end
        try:
            group, chunks = self._xet.stream(grant, self._hash, self.size, start, end)
        except BaseException as error:
            raise self.failed(attempt, error) from None
        return XetStream(self, attempt, group, chunks, start, end - start)

    def refresh(self) -> None:
        """See Transport.refresh."""
        with self._lock:
            self._in_a_row = 0

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
        self._xet.forget(attempt.grant)
        if str(error).startswith(_RATE_LIMITED):
            self._xet.pool.cooldown.set(attempt.grant.host, REST_S)
            return Throttled("the Xet store limits requests", REST_S)
        return self._counted(attempt.incident, _words(error))

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
            return self._xet.grant(control)
        except Transient as failure:
            raise self._counted(incident, str(failure)) from None
        except (HiveError, RangesRefused) as error:
            control.check()
            # The Hub hands out no token: Xet is switched off for this repository, or this token may not use it. HTTP
            # has its own answer to that.
            code = error.code if isinstance(error, HiveError) else "no token"
            raise Unusable(f"the Hub hands out no token for Xet ({code})", self) from None


class XetStream:
    """See Stream. Always a range: the size is known, and what is short is asked for again."""

    whole = False
    validator = ""
    etag: str | None = None

    def __init__(
        self, way: XetTransport, attempt: _Attempt, group: Any, chunks: Iterator[bytes], start: int, n_bytes: int
    ) -> None:
        self.start = start
        self.total: int | None = way.size
        self._way = way
        self._attempt = attempt
        self._group = group
        self._chunks = chunks
        self._left = n_bytes
        self._aborted = False

    def chunks(self) -> Iterator[memoryview]:
        """See Stream.chunks. hf_xet gives up to 64 MiB at a time; they are handed on in the engine's measure."""
        step = self._way.limits.read_bytes
        while self._left > 0:
            view = memoryview(self._next())[: self._left]
            self._left -= len(view)
            for at in range(0, len(view), step):
                yield view[at : at + step]

    def abort(self) -> None:
        """See Stream.abort."""
        self._aborted = True
        self._group.abort()

    def close(self) -> None:
        """See Stream.close."""
        self._group.abort()

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


def _import_native(ca_bundle: str | None) -> Any:
    """hf_xet, imported late: at import it starts its log, in a thread and in a file of the home folder, unless the
    environment says otherwise.
    """
    os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)
    if ca_bundle is not None:
        os.environ.setdefault("SSL_CERT_FILE", ca_bundle)
    import hf_xet

    return hf_xet


def _config(native: Any, limits: Limits) -> Any:
    return native.XetConfig().with_config(
        {
            "telemetry.enabled": False,
            "client.connect_timeout": _ms(limits.connect_timeout_s),
            "client.read_timeout": _ms(limits.stall_s),
            "client.retry_max_attempts": RETRIES,
            "client.retry_base_delay": f"{RETRY_BASE_DELAY_MS}ms",
            "client.retry_max_duration": _ms(limits.stall_all_s),
            "reconstruction.download_buffer_size": BUFFER_BYTES,
            "reconstruction.download_buffer_perfile_size": BUFFER_PER_STREAM_BYTES,
            "reconstruction.download_buffer_limit": BUFFER_MAX_BYTES,
        }
    )


def _ms(seconds: float) -> str:
    return f"{int(seconds * 1000)}ms"


def _words(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the transfer over Xet ended early"
    if isinstance(error, ImportError):
        return "hf_xet cannot be imported"
    kinds = {"XetAuthenticationError": "the Xet store refuses the token", "XetObjectNotFoundError": "not in the store"}
    if isinstance(error, ConnectionError):
        return kinds.get(type(error).__name__, "the Xet store cannot be reached, or fails")
    return kinds.get(type(error).__name__, f"the transfer over Xet failed ({type(error).__name__})")
