"""The first start of a part by fork: what several parts import is imported once, by their parent.

Problem: the server and the workers spend most of their start on imports, and a good half of these is the same. The
easy way, a process of its own that is asked to fork ("zygote"), is one more thing that can die, and everything forked
after its death starts in another way. So there is none: the parent imports, forks each part once while it has one
thread and no event loop, and becomes what watches them. A part that dies later starts as a program of its own, from
nothing, as it always did.

Linux only: a process with threads, or on macOS with the system's frameworks, must not be forked without an exec.
Elsewhere the first start is like every other.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from hive import logs
from hive.imports import uncollected
from hive.processes.children import die_with_parent
from hive.processes.hangup import without_ignored_hangup

log = logging.getLogger("hive.processes.fork")

#: Fields of /proc/self/stat behind the name: where the arguments and the environment lie in memory.
_ARGUMENTS: Final = slice(45, 47)
_ENVIRONMENT: Final = slice(47, 49)
#: What a parent may handle, and a part handles by itself.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The exit code of a part that failed with an error nobody has handled.
_FAILED: Final = 1
_STDERR: Final = 2


class Part(NamedTuple):
    """A part that can be started by fork: `load` imports what it needs, in the parent; `main` runs it in the child with
    the arguments of its program, and gives the exit code.
    """

    load: Callable[[], object]
    main: Callable[[list[str]], int]


class Forked(NamedTuple):
    """A part that was forked: its process id, and the descriptor from which to read its output."""

    pid: int
    output: int


def try_fork(part: Part, arguments: list[str], env: Mapping[str, str], title: Sequence[str]) -> Forked | None:
    """Fork a part, where this process may be forked, and the part's code can be loaded. Where not, the part is to be
    started as a program, which says what is wrong with it, and is tried again.
    """
    if not _may_fork():
        return None
    try:
        _import(part.load)
    except Exception:
        log.debug("a part cannot be loaded", exc_info=True)
        return None
    try:
        return fork(lambda: part.main(arguments), env, title) if _may_fork() else None
    except OSError:
        log.debug("a part cannot be forked", exc_info=True)
        return None


def _may_fork() -> bool:
    """Whether this process may be forked: a Linux that tells of a process' end by a descriptor, and one thread."""
    return hasattr(os, "pidfd_open") and threading.active_count() == 1 and _threads() == 1


def _threads() -> int:
    """The threads of this process, those that Python does not know too; 0 where nobody tells."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _import(load: Callable[[], object]) -> None:
    """Import by calling `load`, never what lies in the working directory by chance: as `python -P` does."""
    first = sys.path[0]
    if not sys.flags.safe_path:
        del sys.path[0]
    try:
        with uncollected():
            load()
    finally:
        if not sys.flags.safe_path:
            sys.path.insert(0, first)


def fork(main: Callable[[], int], env: Mapping[str, str], title: Sequence[str]) -> Forked:
    """Fork a child that runs `main` with this environment and ends with its exit code.

    The child is what an executed one would be: a process group of its own, SIGTERM when this thread dies, no
    descriptors but its standard ones, of which both outputs go to `output`; `title` is what `ps` shows, as far as
    there is room.

    Raises:
        OSError: when there is no process or memory to be had.
    """
    parent = os.getpid()
    read_end, write_end = os.pipe()
    # What there is stays for good: a collection in a child need not look at it, nor copy its pages by that.
    gc.freeze()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(read_end)
        os.close(write_end)
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(write_end)
        with contextlib.suppress(OSError):  # the child has done it, or has ended
            os.setpgid(pid, pid)
        return Forked(pid, read_end)
    code = _FAILED
    try:
        _become(parent, write_end)
        # Each variable is copied: nothing points to where the parent's lie.
        os.environ.clear()
        os.environ.update(env)
        _show(title, env)
        code = _exit_code(main)
        # As Python ends: what threads have in hand is finished.
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        logs.flush()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _exit_code(main: Callable[[], int]) -> int:
    try:
        return main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else _FAILED


def _become(parent: int, output: int) -> None:
    """In the child: let go of what is the parent's. Ends where the parent has died by now."""
    os.setpgid(0, 0)
    for number in without_ignored_hangup(*_SIGNALS):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(_FAILED)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, _STDERR)
    # Python's own remember what the descriptors were before: a terminal, a file with a position.
    sys.stdout, sys.stderr = _writer(1, sys.stdout), _writer(_STDERR, sys.stderr)
    os.closerange(_STDERR + 1, os.sysconf("SC_OPEN_MAX"))


def _writer(descriptor: int, earlier: TextIO) -> TextIO:
    return open(descriptor, "w", 1, encoding=earlier.encoding, errors=earlier.errors, closefd=False)


def _show(title: Sequence[str], env: Mapping[str, str]) -> None:
    """Let `ps` and /proc show this title, as far as there is room, and no variable that the child does not have: both
    lie in memory as the parent was given them.
    """
    with contextlib.suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = map(int, fields[_ARGUMENTS])
        text = b"".join(os.fsencode(word) + b"\0" for word in title)[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
        start, end = map(int, fields[_ENVIRONMENT])
        kept = set(map(os.fsencode, env))
        for entry in ctypes.string_at(start, end - start).split(b"\0"):
            if entry.partition(b"=")[0] not in kept:
                ctypes.memset(start, 0, len(entry))
            start += len(entry) + 1


class ForkedProcess:
    """A forked part, for whoever waits in an event loop: what supervisor.py needs of asyncio's Process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    async def wait(self) -> int:
        """Wait for its end; gives the exit code, negative for a signal. To be called once."""
        ended = asyncio.Event()
        descriptor, loop = os.pidfd_open(self.pid), asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> int:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal. Its pid is nobody else's before `wait` has returned."""
        if self.returncode is None:
            os.kill(self.pid, number)
