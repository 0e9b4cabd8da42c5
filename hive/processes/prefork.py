"""N processes of one kind: forked from one parent that replaces those that die and hands signals on.

For the workers, and for an HTTP server that uses all cores. What every child needs is imported before the fork and
shared; the parent does nothing but wait, so that there is little in it to fail. A child dies in order when its parent
is gone. One that does not end when it is told to is killed; one that cannot even be killed, because a filesystem holds
it, is left behind.

The parent waits on a self-pipe, into which the kernel's side of each signal writes a byte, that of a child's end too.
Waiting for a child alone (`os.wait`) is interrupted by a signal as well, but by one that comes just before it, or to
another thread, it is not: its handler would run when a child ends, and a pool that was told to stop went on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from hive import logs
from hive.net.backoff import NO_JITTER, Backoff
from hive.processes.children import die_with_parent

log = logging.getLogger("hive.processes.prefork")

#: Seconds before a child that died is replaced: doubles with each death in a row, up to the last.
RESPAWN_FIRST_S, RESPAWN_LAST_S = 0.2, 10.0
#: Seconds that a child must have lived for its death not to count as one in a row.
STEADY_S = 10.0
#: Seconds that a child may take to end when it is told to, and one that was killed.
STOP_S = 20.0
KILLED_S = 2.0
#: What the parent hands on to its children.
_HANDLED = (signal.SIGTERM, signal.SIGINT)


class Prefork:
    """Keeps a child alive for each of `works`, until SIGTERM or SIGINT."""

    def __init__(
        self,
        works: Sequence[Callable[[], None]],
        on_ready: Callable[[], None] = lambda: None,
        stop_s: float = STOP_S,
    ) -> None:
        self._works = works
        self._stop_s = stop_s
        self._on_ready = on_ready
        #: By pid: when the child was started, and its work.
        self._started: dict[int, tuple[float, Callable[[], None]]] = {}
        self._signals = 0
        self._killed = False
        self._bell = _Bell()

    def run(self) -> None:
        """Until asked to stop, and all children have ended. Every further signal is handed on to them."""
        for sig in _HANDLED:
            signal.signal(sig, self._on_signal)
        signal.signal(signal.SIGALRM, self._on_patience_over)
        # A handler of its own, or nothing is written into the pipe.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._bell.hang()
        # What is loaded stays for good. A full collection in a child would look at it all the same, and looking writes:
        # the child would have a copy of its own from then on (a worker of 2 MB had 21 MB after one).
        gc.freeze()
        for work in self._works:
            self._spawn(work)
        self._on_ready()
        try:
            self._keep_alive()
        except _LeftBehindError:
            log.error("what cannot be killed is left behind", extra={"fields": {"pids": list(self._started)}})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._bell.take_down()

    def _keep_alive(self) -> None:
        """Until no child is left. Raises _LeftBehindError where one does not die."""
        backoff = Backoff(RESPAWN_FIRST_S, RESPAWN_LAST_S, jitter=NO_JITTER)
        while self._started:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                self._bell.wait()
                continue
            child = self._started.pop(pid, None)
            if self._signals or child is None:
                continue
            started_s, work = child
            lived_s = time.monotonic() - started_s
            if lived_s > STEADY_S:
                backoff.reset()
            log.warning("a process ended; replacing it", extra={"fields": {"pid": pid, "status": status}})
            self._replace(work, backoff)

    def _replace(self, work: Callable[[], None], backoff: Backoff) -> None:
        """Start it again, as often as it takes: the want of memory that killed a child may refuse the fork as well."""
        while True:
            time.sleep(backoff.next_s())
            if self._signals:
                return
            try:
                self._spawn(work)
                return
            except OSError as error:
                reason = error.strerror or str(error)
                log.error("no process can be started; trying again", extra={"fields": {"reason": reason}})

    def _spawn(self, work: Callable[[], None]) -> None:
        """Fork a child. Signals wait meanwhile: a child that is asked to stop before it has let go of its parent's
        handler would do what its parent does, and live on. Raises OSError where the system has no room for one.
        """
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            raise
        if pid:
            self._started[pid] = (time.monotonic(), work)
            if self._signals:
                os.kill(pid, signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            return
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._bell.take_down()
            # Ctrl-C reaches every process of the terminal; the parent is the one that acts on it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            die_with_parent(signal.SIGTERM)
            if os.getppid() == parent:
                work()
            logs.flush()
            os._exit(0)
        except BaseException:
            log.exception("the process failed")
            logs.flush()
            os._exit(1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            signal.setitimer(signal.ITIMER_REAL, self._stop_s)
        for pid in self._started:
            # The signal may come when a child was waited for and has yet to be taken off the list.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _on_patience_over(self, signum: int, frame: FrameType | None) -> None:
        """Raises _LeftBehindError where even killing them was of no use."""
        pids = list(self._started)
        if self._killed:
            raise _LeftBehindError
        self._killed = True
        log.warning("killing what does not end", extra={"fields": {"pids": pids, "seconds": self._stop_s}})
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, KILLED_S)


class _Bell:
    """The self-pipe of this process: rung by each signal that has a handler, whichever thread gets it."""

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None

    def hang(self) -> None:
        """From now on."""
        self._ends = read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def wait(self) -> None:
        """Until a signal has come since the last wait."""
        assert self._ends is not None
        read, _ = self._ends
        select.select([read], [], [])
        with contextlib.suppress(BlockingIOError):
            os.read(read, select.PIPE_BUF)

    def take_down(self) -> None:
        """Here alone: a parent's stays with the parent."""
        signal.set_wakeup_fd(-1)
        for end in self._ends or ():
            os.close(end)
        self._ends = None


class _LeftBehindError(Exception):
    """A child has been killed and does not end."""
