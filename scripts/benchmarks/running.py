"""The processes of a benchmark: started pinned to a core, found by what they say, ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Final, NamedTuple, Self

from benchmarks.machine import DRIVER_CORE, SERVER_CORE, children, pinned
from hive.processes.children import bound_to_us

#: The checkout.
ROOT = Path(__file__).resolve().parents[2]
#: Where servers listen.
LOOPBACK: Final = "127.0.0.1"
#: Seconds within which a process must start, and end when told to.
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0
#: Seconds between two looks at something that is about to happen.
POLL_S = 0.02
#: Where nginx modules lie on Debian.
NGINX_MODULES = Path("/usr/lib/nginx/modules")
NCHAN_MODULE = NGINX_MODULES / "ngx_nchan_module.so"


def free_port() -> int:
    """A TCP port of the loopback address on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return when `condition` is true.

    Raises:
        TimeoutError: naming `what`, when it does not come.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def listens(port: int, address: str = LOOPBACK) -> bool:
    """Whether somebody accepts connections on this port of an address."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


def end_in_order() -> None:
    """Have SIGTERM and SIGHUP end us as Ctrl-C does, so that what was started ends too, and its folder goes."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def _command(command: list[str], core: int | None) -> list[str]:
    """`command` on this core, or on any; it ends with us also where we are killed."""
    program = shutil.which(command[0]) or command[0]
    return bound_to_us(pinned(core, [program, *command[1:]]) if core is not None else [program, *command[1:]])


class Process:
    """A child, on one core unless that is None. A context manager that ends the child: SIGTERM first, then for good."""

    def __init__(
        self, command: list[str], core: int | None, *, log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            _command(command, core),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            start_new_session=True,
        )
        self.log = log

    @property
    def pid(self) -> int:
        """The child's process id: taskset becomes the program it starts."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the child is gone."""
        return self._process.poll() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the child; what it started ends with it."""
        try:
            if not self.ended:
                self._process.terminate()
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._log.close()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return when `condition` is true.

        Raises:
            RuntimeError: when the child ends before, with the end of its log.
        """

        def come() -> bool:
            if self.ended:
                raise RuntimeError(f"{what} ended:\n{self.log.read_text(errors='replace')[-2000:]}")
            return condition()

        wait_until(come, what)


class Redis(Process):
    """A Redis of the benchmark's own, with the append-only file that hive runs it with."""

    def __init__(self, folder: Path, core: int | None = DRIVER_CORE) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(parents=True, exist_ok=True)
        options = f"--bind 127.0.0.1 --port {self.port} --save '' --appendonly yes --maxclients 20000".split()
        options[options.index("''")] = ""
        super().__init__(["redis-server", *options, "--dir", str(folder)], core, log=folder / "redis.log")
        self.wait_for(lambda: listens(self.port), "Redis")


class Server(Process):
    """`hive serve`, alone on its core, or on any where `core` is None."""

    def __init__(
        self, redis_url: str, folder: Path, core: int | None = SERVER_CORE, processes: int = 1, **settings: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "server.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "hive.cli", "serve", "--port", "0", "--processes", str(processes)]
        super().__init__(command, core, log=log, env=environment(redis_url, folder, **settings))
        self.wait_for(lambda: self._address() is not None, "hive serve")
        self.url = str(self._address())
        self.port = int(self.url.rpartition(":")[2])
        self.wait_for(lambda: b" 200 " in answer(self.port, "/readyz").partition(b"\n")[0], "hive serve")

    def _address(self) -> str | None:
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry: dict[str, Any] = json.loads(line)
                if entry.get("message") == "listening":
                    return str(entry["address"])
        return None


class Workers(Process):
    """`hive worker`, on any core."""

    def __init__(self, redis_url: str, folder: Path, concurrency: int = 1, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "workers.log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-m", "hive.cli", "worker", "--concurrency", str(concurrency)]
        super().__init__(command, None, log=log, env=environment(redis_url, folder, **settings))
        self.wait_for(lambda: "workers are ready" in log.read_text(errors="replace"), "hive worker")


def environment(redis_url: str, folder: Path, **settings: str) -> dict[str, str]:
    """What hive's processes share: Redis, and a store and a home in `folder`."""
    return {
        "REDIS_URL": redis_url,
        "HIVE_STORE": str(folder / "store"),
        "HIVE_HOME": str(folder / "home"),
        "HIVE_LOG_FORMAT": "json",
        "HIVE_DRAIN_S": "0",
        **settings,
    }


class Place(NamedTuple):
    """Where a server runs: what its command begins with, and the address at which it is reached."""

    prefix: tuple[str, ...] = ()
    address: str = LOOPBACK


#: A server of this machine, as its programs see it.
HERE: Final = Place()


class Nginx(Process):
    """nginx with one worker process. `http` is the inside of its http block; ADDRESS and PORT in it become those."""

    def __init__(
        self,
        folder: Path,
        http: str,
        *,
        modules: tuple[Path, ...] = (),
        core: int | None = SERVER_CORE,
        place: Place = HERE,
        scheme: str = "http",
    ) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nginx.conf"
        config.write_text(
            "".join(f"load_module {module};\n" for module in modules)
            + f"daemon off; worker_processes 1; user root; pid {folder}/nginx.pid;\n"
            + f"error_log {folder}/nginx-error.log;\nevents {{ worker_connections 16384; }}\n"
            + f"http {{ access_log off; client_body_temp_path {folder}/body;\n"
            + f"{http.replace('ADDRESS', place.address).replace('PORT', str(self.port))}\n}}\n"
        )
        super().__init__([*place.prefix, "nginx", "-c", str(config)], core, log=folder / "nginx.log")
        self.url = f"{scheme}://{place.address}:{self.port}"
        self.wait_for(lambda: listens(self.port, place.address) and bool(children(self.pid)), "nginx")
        #: The process that serves; the master only watches it.
        self.worker_pid = children(self.pid)[0]


def answer(port: int, path: str, method: str = "GET", body: bytes = b"") -> bytes:
    """The whole answer to one HTTP request, or nothing where none comes."""
    headers = f"Host: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    request = f"{method} {path} HTTP/1.1\r\n{headers}\r\n"
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(request.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


class Told:
    """A child that takes commands on standard input, a line each, and answers each with a line of JSON."""

    def __init__(self, command: list[str], core: int | None, env: Mapping[str, str] | None = None) -> None:
        self._program = command[0]
        self._process = subprocess.Popen(
            _command(command, core),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        self._process.stdout.close()

    def tell(self, command: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The answer to a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        return self.hear(timeout_s)

    def hear(self, timeout_s: float = 90.0) -> dict[str, Any]:
        """The next answer.

        Raises:
            TimeoutError: when none comes.
            RuntimeError: when the child has ended.
        """
        assert self._process.stdout is not None
        line = self.line(self._process.stdout, timeout_s)
        if not line:
            raise RuntimeError(f"{self._program} ended with {self._process.wait(STOP_TIMEOUT_S)}")
        found: dict[str, Any] = json.loads(line)
        return found

    @staticmethod
    def line(stream: IO[bytes], timeout_s: float) -> bytes:
        """The next line of a pipe from which only lines are read.

        Raises:
            TimeoutError: when none comes.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
        return stream.readline()
