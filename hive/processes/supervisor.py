"""Child processes that are kept running: started, read, started again when they die, ended in order.

Problem: a stack of three programs must look like one. The easy way, children that write to our terminal and are waited
for one by one, mixes their lines and leaves the others behind when one dies. So every child has a task of its own that
reads its lines, waits for its end, and starts it again with a growing pause, so that one that cannot start does not
spin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Final

from hive.net.backoff import NO_JITTER, Backoff
from hive.processes.children import bound_to_us, signal_group
from hive.processes.fork import Forked, ForkedProcess

#: Seconds until a child that ended starts again: the first time, and at most.
RESTART_MIN_S: Final = 1.0
RESTART_MAX_S: Final = 30.0
#: Seconds that a child must have lived for its next end to count as the first.
STEADY_S: Final = 60.0
#: Bytes of a line of output after which it is cut.
MAX_LINE_BYTES: Final = 65_536
#: Seconds that a dead child's output is still read: a grandchild may hold the pipe open.
LAST_WORDS_S: Final = 0.5
#: Seconds that a killed child may take to be gone.
KILL_TIMEOUT_S: Final = 5.0
#: The exit code of a child that could not be started, as shells have it.
NOT_STARTED: Final = 126

#: What gets a child's output: the child's name and one line.
Announce = Callable[[str, str], None]


class Child:
    """A program that is kept running from `start` until `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        say: Announce,
        forked: Forked | None = None,
        options: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`forked`: the process that it is at first, where that runs already. `options`: what the command says more,
        asked each time it is started.
        """
        self.name = name
        self.restarts = 0
        self.exit_code: int | None = None
        self._command = list(command)
        self._options = options
        self._env = dict(env)
        self._say = say
        self._forked = forked
        self._process: asyncio.subprocess.Process | ForkedProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        """Start it and keep it running, in the background."""
        self._task = asyncio.create_task(self._keep(), name=f"child {self.name}")

    async def stop(self, timeout_s: float) -> None:
        """Ask it to end; kill it when it has not after `timeout_s`. It is not started again."""
        self._stopping.set()
        if self._task is None:
            return
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait([self._task], timeout=timeout_s)
        if late:
            self._say("hive", f"{self.name} has not ended after {timeout_s:.0f} s and is killed")
            self.kill()
            await asyncio.wait([self._task], timeout=KILL_TIMEOUT_S)

    def kill(self) -> None:
        """End it and its group at once."""
        self._stopping.set()
        if self.pid is not None:
            signal_group(self.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _keep(self) -> None:
        backoff = Backoff(RESTART_MIN_S, RESTART_MAX_S, jitter=NO_JITTER)
        while not self._stopping.is_set():
            started = time.monotonic()
            how = await self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > STEADY_S:
                backoff.reset()
            pause_s = backoff.next_s()
            self._say("hive", f"{self.name} {how} and starts again in {pause_s:.0f} s")
            await happens(self._stopping, pause_s)
            self.restarts += 1

    async def _run_once(self) -> str:
        """Start it and wait for its end; gives how it ended, in words."""
        # A pipe of our own: asyncio's would stay open for as long as a grandchild holds its other end.
        try:
            pipe, process = await self._begin()
        except OSError as error:  # no process, memory or descriptor to be had now, or no program: that may change
            self.exit_code = NOT_STARTED
            return f"cannot be started ({error.strerror})"
        with pipe:
            if self._stopping.is_set():
                # Told to stop between the decision to start and the start.
                self._signal(signal.SIGTERM)
            reading = asyncio.create_task(_read_lines(pipe, lambda line: self._say(self.name, line)))
            self.exit_code = await process.wait()
            await asyncio.wait([reading], timeout=LAST_WORDS_S)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        return _how(self.exit_code)

    async def _begin(self) -> tuple[IO[bytes], asyncio.subprocess.Process | ForkedProcess]:
        """A process that runs, and the end of the pipe from which to read its output."""
        if self._forked is not None:
            forked, self._forked = self._forked, None
            self._process = ForkedProcess(forked.pid)
            return os.fdopen(forked.output, "rb", buffering=0), self._process
        read_end, write_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *bound_to_us([*self._command, *self._options()]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                env=self._env,
                process_group=0,
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return os.fdopen(read_end, "rb", buffering=0), self._process


async def happens(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event is set within this time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


async def _read_lines(pipe: IO[bytes], on_line: Callable[[str], None]) -> None:
    """Give each line of the pipe, cut where one is too long, until its end. Closes the pipe."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    rest = b""
    try:
        while chunk := await reader.read(MAX_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                on_line(line.decode(errors="replace").rstrip())
    finally:
        transport.close()
        if rest:
            on_line(rest.decode(errors="replace").rstrip())


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
