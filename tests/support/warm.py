"""Servers and workers that are forked from a process that has imported hive: a fork server for each process of tests.

Problem: a test run starts hive some seven hundred times, and each start is half a second of a processor for imports and
nothing else: a third of the whole run. The easy way, one service for all tests, lets a test see what another has left.
So a process imports all that servers and workers do, and forks them with what `hive up` starts its parts with
(hive/processes/fork.py): another process with an environment, a folder and descriptors of its own, which runs the same
code from its command line on. What the command line of a shell starts, and what `hive up`, `hive pull` and chaos start,
is still executed: that it can be imported from nothing is tested there.

A child is not ours but the fork server's, which is asked for its exit code. It dies with the fork server, and that with
us.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

#: Bytes of one order: an environment, above all.
MAX_ORDER_BYTES: Final = 1 << 17
#: What an interpreter, or the library below it, reads when it starts: nobody can be given it later.
_READ_AT_START: Final = ("PYTHON", "LD_", "LANG", "LC_", "TZ", "MALLOC_", "GLIBC_", "FAKETIME")
#: The one that is the same for all.
_SHARED: Final = {"PYTHONDONTWRITEBYTECODE": "1"}
#: Modules that a server or workers import once they run.
_LATER: Final = (
    *("uvloop", "httptools", "hive.server", "workers.pool", "workers.download", "workers.resolver"),
    *("workers.inference.host",),
)


class WarmProcess:
    """A process that was forked, as far as `subprocess.Popen` shows one."""

    def __init__(self, server: _ForkServer, pid: int, output: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: IO[str] = os.fdopen(output, encoding="utf-8", errors="replace")
        self._server = server
        self._end = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with self._lock:
            if self.returncode is None and _is_readable(self._end, 0):
                self.returncode = self._server.reap(self.pid)
                os.close(self._end)
            return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            _is_readable(self._end, timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code


class _ForkServer:
    """Our end of it."""

    def __init__(self) -> None:
        self.world = _world()
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                env={"PATH": os.environ["PATH"], **_SHARED},
                cwd=Path(__file__).parents[2],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start(self, part: str, arguments: Sequence[str], env: Mapping[str, str]) -> WarmProcess:
        umask = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))
        order = {"part": part, "arguments": list(arguments), "env": dict(env), "cwd": os.getcwd(), "umask": umask[6:]}
        with self._lock:
            self._socket.send(json.dumps(order).encode())
            told, descriptors, _, _ = socket.recv_fds(self._socket, MAX_ORDER_BYTES, 1)
        assert told, "the fork server of the tests has ended"
        return WarmProcess(self, json.loads(told), descriptors[0])

    def reap(self, pid: int) -> int:
        """The exit code of a child that has ended, negative for a signal."""
        with self._lock:
            self._socket.send(json.dumps({"reap": pid}).encode())
            told = self._socket.recv(MAX_ORDER_BYTES)
        return int(json.loads(told))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)


_server: _ForkServer | None = None
_server_lock = threading.Lock()


def can_start(env: Mapping[str, str]) -> bool:
    """Whether a process with this environment can be forked: Linux, and nothing that is read when a program starts."""
    names = (name for name in env if _SHARED.get(name) != env[name])
    return hasattr(os, "pidfd_open") and not any(name.startswith(_READ_AT_START) for name in names)


def start(arguments: Sequence[str], env: Mapping[str, str]) -> WarmProcess:
    """Start `hive.cli serve ...` or `hive.cli worker ...`, which becomes `workers ...`."""
    global _server
    module, command, *options = arguments
    assert module == "hive.cli"
    part, options = ("server", [command, *options]) if command == "serve" else ("workers", options)
    with _server_lock:
        if _server is not None and _server.world != _world():
            # This process has mounts of its own by now. What was forked before goes on, until the end of us.
            _earlier.append(_server)
            _server = None
        if _server is None:
            _server = _ForkServer()
        return _server.start(part, options, env)


_earlier: list[_ForkServer] = []


def close() -> None:
    """End the fork servers, and what was forked with them. May be called where there are none."""
    global _server
    for one in (*_earlier, *filter(None, [_server])):
        one.close()
    _earlier.clear()
    _server = None


def _world() -> str:
    """What a child must share with us and gets by its parent: the mounts that it sees."""
    return os.readlink("/proc/self/ns/mnt")


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


# -- in the fork server ------------------------------------------------------------------------------------------------


def _serve(orders: socket.socket) -> None:
    """Until our other end is closed."""
    from hive.cli.up import _parts
    from hive.imports import uncollected

    parts = _parts()
    with uncollected():
        for name in _LATER:
            importlib.import_module(name)
    while told := orders.recv(MAX_ORDER_BYTES):
        order = json.loads(told)
        if "reap" in order:
            code = os.waitstatus_to_exitcode(os.waitpid(order["reap"], 0)[1])
            orders.send(json.dumps(code).encode())
        else:
            pid, output = _fork(parts[order["part"]].main, order)
            socket.send_fds(orders, [json.dumps(pid).encode()], [output])
            os.close(output)


def _fork(main: Callable[[list[str]], int], order: dict[str, Any]) -> tuple[int, int]:
    from hive.processes.fork import fork

    def run() -> int:
        os.chdir(order["cwd"])
        os.umask(int(order["umask"], 8))
        return main(order["arguments"])

    assert len(os.listdir("/proc/self/task")) == 1
    forked = fork(run, order["env"], ["hive", order["part"]])
    return forked.pid, forked.output


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as _orders, contextlib.suppress(ConnectionError):
        _serve(_orders)
