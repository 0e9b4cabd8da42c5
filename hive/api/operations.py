"""A long operation told as it goes: it runs in a thread of its own, and what it says are lines of JSON.

Problem: reading terabytes takes hours. One answer at the end would be cut by the first proxy that loses patience, and
nobody would know how far it is; a job with an id to ask for would need a place to keep what was found and a rule for
how long. So the answer begins at once and is written line by line, with an empty line where there was nothing to say
for a while. Nothing is kept: a client that goes away ends the operation, at its next block of bytes.

The thread waits where the client is slow, so lines never pile up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hive.disk_errors import disk_error
from hive.errors import Conflict, HiveError, InternalError
from hive.store.cancellation import Stopped
from hive.wire.encoding import encode_json
from hive.wire.maintenance import MEDIA_TYPE, Failed

log = logging.getLogger("hive.operations")

#: Lines that wait for the client.
MAX_WAITING_LINES: Final = 256
#: Seconds between two looks whether to stop, while the client takes nothing.
STOP_POLL_S: Final = 0.5

_HEADERS: Final = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}

#: What is to be done: gets what it says lines with.
Work = Callable[[Callable[[msgspec.Struct], None]], Any]


class Operations:
    """The long operations of one HTTP process: one of each kind at a time, so that they leave the disk to others."""

    def __init__(self) -> None:
        self._running: dict[str, LongOperation] = {}
        self._lock = threading.Lock()
        self._closed = False

    def begin(self, kind: str) -> LongOperation:
        """Take the place of this kind, until the operation is closed and its thread has ended.

        Raises:
            Conflict: one is under way, or the process is about to stop.
        """
        with self._lock:
            if kind in self._running or self._closed:
                raise Conflict(f"A {kind} is under way in this server already. Ask again when it has ended.")
            operation = self._running[kind] = LongOperation(kind, lambda: self._end(kind))
        return operation

    def stop(self) -> None:
        """End all of them soon, and begin none any more: the process stops."""
        with self._lock:
            self._closed = True
            for operation in self._running.values():
                operation.stop.set()

    def _end(self, kind: str) -> None:
        with self._lock:
            self._running.pop(kind, None)


class LongOperation:
    """One operation: `lines` does it and gives what it says; `close` ends it."""

    def __init__(self, kind: str, on_end: Callable[[], None]) -> None:
        self.stop = threading.Event()
        self._kind = kind
        self._on_end = on_end
        self._started = False
        self._slots = threading.BoundedSemaphore(MAX_WAITING_LINES)

    async def lines(self, work: Work, keepalive_s: float) -> AsyncGenerator[bytes, None]:
        """What the operation says, as bytes to send; an empty line after each `keepalive_s` seconds of silence."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        def hand_over(line: bytes | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, line)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._run, work, hand_over), name=self._kind, daemon=True)
        thread.start()
        self._started = True
        more = True
        while more:
            try:
                # Not wait_for: that of Python 3.11 drops a cancellation which comes together with a line.
                async with asyncio.timeout(keepalive_s):
                    waiting = [await queue.get()]
            except TimeoutError:
                yield b"\n"
                continue
            while not queue.empty():
                waiting.append(queue.get_nowait())
            lines = [line for line in waiting if line is not None]
            more = len(lines) == len(waiting)
            if lines:
                self._slots.release(len(lines))
                yield b"".join(lines)

    def close(self) -> None:
        """Stop it. Its place is free when its thread has ended."""
        self.stop.set()
        if not self._started:
            self._on_end()

    def _run(self, work: Work, hand_over: Callable[[bytes | None], None]) -> None:
        def say(line: msgspec.Struct) -> None:
            while not self._slots.acquire(timeout=STOP_POLL_S):
                if self.stop.is_set():
                    raise Stopped
            hand_over(encode_json(line) + b"\n")

        try:
            _guarded(work, say)
        finally:
            self._on_end()
            hand_over(None)


class LinesResponse(StreamingResponse):
    """The answer that an operation's lines are. The operation ends with it, however it ends."""

    def __init__(self, operation: LongOperation, work: Work, keepalive_s: float) -> None:
        super().__init__(operation.lines(work, keepalive_s), media_type=MEDIA_TYPE, headers=_HEADERS)
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._operation.close()


def _guarded(work: Work, say: Callable[[msgspec.Struct], None]) -> None:
    """Do the work; a failure is the last line."""
    try:
        try:
            work(say)
        except HiveError as error:
            say(Failed(code=error.code, message=error.message, details=error.details))
        except OSError as error:
            found = disk_error(error)
            log.warning("the store refused", extra={"fields": {"code": found.code, "reason": found.message}})
            say(Failed(code=found.code, message=found.message, details=found.details))
    except Stopped:
        log.info("stopped: nobody listens any more")
    except Exception:
        log.exception("an operation failed")
        with contextlib.suppress(Stopped):
            say(Failed(code=InternalError.code, message=InternalError().message, details={}))
