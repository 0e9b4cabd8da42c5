"""Log lines on their way to a pipe that perhaps nobody reads: queued, written by a thread of their own, lost and
counted when there are too many.

Problem: a pipe holds 64 KiB. Whoever writes to one that is not read waits, for ever; a log that waits stops the event
loop, the renewal of leases and the handling of SIGTERM. The easy way, a descriptor that does not block, changes it for
every program that has the same terminal. So lines go into a queue with a limit, and a thread that nobody waits for
writes them. A process that ends in order gives that thread a moment; what it does not get rid of is lost.

`RepeatFilter` keeps the same trouble from filling the log: one line at once, and then one a minute with the count.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

#: Lines and bytes that may wait for a reader.
MAX_LINES: Final = 5_000
MAX_BYTES: Final = 4 << 20
#: Seconds that a process which ends gives to what still waits.
LAST_WORDS_S: Final = 2.0
#: Seconds for which the same trouble is not told again, and troubles that are remembered.
REPEAT_S: Final = 60.0
MAX_TROUBLES: Final = 500


class LineWriter:
    """Writes lines to a descriptor and makes nobody wait. Safe from any thread, and over a fork."""

    _thread: threading.Thread | None
    _untold: int

    def __init__(self, descriptor: int | Callable[[], int], notice: Callable[[int], str]) -> None:
        """`descriptor`: where lines go, or who says so before each, in the writer's own thread; `notice` gives the line
        that tells how many were lost.
        """
        self._descriptor = descriptor
        self._notice = notice
        #: Lines that were lost since the process began.
        self.lost = 0
        self._reset()
        _writers.add(self)

    def write(self, line: str) -> None:
        """Take a line, without its end; or count it as lost."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if len(self._lines) >= MAX_LINES or self._waiting_bytes + len(data) > MAX_BYTES:
                self.lost += 1
                self._untold += 1
                return
            self._take(self._told() + data)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def _take(self, data: bytes) -> None:
        self._lines.append(data)
        self._waiting_bytes += len(data)

    def _told(self) -> bytes:
        """The line that tells of lost ones, behind those that came before them; b"" where there were none."""
        untold, self._untold = self._untold, 0
        return (self._notice(untold) + "\n").encode() if untold else b""

    def flush(self, timeout_s: float = LAST_WORDS_S) -> bool:
        """Wait until all is written, for so long at most; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _reset(self) -> None:
        """Begin with nothing, also in a forked child: what waits is the parent's to write."""
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._untold = 0
        self._writing = False
        self._thread = None

    def _run(self) -> None:
        # Signals are for the thread that waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._lines))
                data = self._lines.popleft()
                self._waiting_bytes -= len(data)
                data += b"" if self._lines else self._told()
                self._writing = True
            self._put(data)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        with contextlib.suppress(OSError):  # nobody is there any more
            descriptor = self._descriptor if isinstance(self._descriptor, int) else self._descriptor()
            while view:
                view = view[os.write(descriptor, view) :]


_writers: weakref.WeakSet[LineWriter] = weakref.WeakSet()


def flush() -> None:
    """Give what waits a moment, in a process that is about to end."""
    for writer in list(_writers):
        writer.flush()


def _begin_anew() -> None:
    for writer in list(_writers):
        writer._reset()


atexit.register(flush)
os.register_at_fork(after_in_child=_begin_anew)


class WriterHandler(logging.Handler):
    """Formats records for a `LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits."""
        try:
            self._writer.write(self.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Nothing: the writer writes as soon as it can, and whoever ends calls its own `flush`."""


class RepeatFilter(logging.Filter):
    """Lets the same trouble through once a minute: a warning or worse that is no download's own, or whatever was logged
    with `extra={"repeats": True}`. What is let through after others were held back says how many: `repeated`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        #: What it was -> when it was told last, and how often it was held back since.
        self._told: OrderedDict[Any, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        fields = getattr(record, "fields", None)
        fields = fields if isinstance(fields, dict) else {}
        repeats = getattr(record, "repeats", False)
        if not repeats and (record.levelno < logging.WARNING or "download_id" in fields):
            return True
        failure = record.exc_info[1] if record.exc_info else None
        key = (record.name, record.levelno, record.getMessage(), str(sorted(map(str, fields.items()))), repr(failure))
        now = self._clock()
        with self._lock:
            told, held_back = self._told.get(key, (float("-inf"), 0))
            if now - told < REPEAT_S:
                self._told[key] = (told, held_back + 1)
                return False
            self._told[key] = (now, 0)
            self._told.move_to_end(key)
            if len(self._told) > MAX_TROUBLES:
                self._told.popitem(last=False)
        if held_back:
            record.fields = {**fields, "repeated": held_back}
        return True
