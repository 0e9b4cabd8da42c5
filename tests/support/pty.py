"""A pseudo-terminal: what a program shows to a person."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.support.waiting import DEADLINE_S

_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a program on a terminal and keeps what it writes."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], *, columns: int = 120, term: str = "xterm-256color"
    ) -> None:
        self.raw = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._process = subprocess.Popen(
            command,
            env={**env, "TERM": term},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """All that was written, without escapes; what was drawn over is still there."""
        return _ESCAPES.sub(b"", self.raw).decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")

    def write(self, data: bytes) -> None:
        """Type."""
        os.write(self._master, data)

    def wait(self, timeout_s: float) -> int:
        """Read until the program has ended; its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < deadline, self.text
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def interrupt(self, timeout_s: float) -> int:
        """Type Ctrl-C until the program ends; its exit code.

        Once may not be enough: a signal that comes just before a blocking read begins is seen only after that read.
        """
        deadline = time.monotonic() + timeout_s
        again = 0.0
        while self._read():
            if time.monotonic() > again:
                with contextlib.suppress(OSError):
                    self.write(b"\x03")
                again = time.monotonic() + 1.0
            assert time.monotonic() < deadline, self.text
        return self._process.wait(max(0.1, deadline - time.monotonic()))

    def wait_for_text(self, text: str, times: int = 1) -> None:
        """Read until this was shown, so often."""
        deadline = time.monotonic() + DEADLINE_S
        while self.text.count(text) < times:
            assert self._read(), f"ended without {text!r}: {self.text}"
            assert time.monotonic() < deadline, f"no {text!r} in: {self.text}"

    def _read(self) -> bool:
        readable, _, _ = select.select([self._master], [], [], 0.1)
        if not readable:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:
            return False
        self.raw += data
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
