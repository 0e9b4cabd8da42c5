"""hive's processes as they run for people: started as commands, found by what they log, ended by pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests

from hive.processes.children import bound_to_us
from tests.support import warm
from tests.support.waiting import DEADLINE_S, wait_for


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not count."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


#: All that were started and not seen to end.
_started: set[HiveProcess] = set()


@contextlib.contextmanager
def none_left_behind() -> Iterator[None]:
    """What the block starts and does not end is killed, and a failure: a setup that broke off before its `try` would
    leave servers and workers that take part in the tests that follow.
    """
    before = set(_started)
    yield
    left = [process for process in _started - before if not (process.ended or process.is_shared)]
    for process in left:
        process.kill()
    assert not left, [process.arguments for process in left]


class HiveProcess:
    """A process of hive; its log lines are read as they come."""

    def __init__(
        self, *arguments: str, env: Mapping[str, str], under: Sequence[str] = (), is_warm: bool = False
    ) -> None:
        """`under`: a command that runs the rest of its line in its own place. `is_warm`: where it can be, it is forked
        from a process that has imported hive (warm.py), and not executed.
        """
        self.arguments = arguments
        #: Whether it is for the tests of several modules, and a fixture of the session ends it.
        self.is_shared = False
        self.lines: list[str] = []
        env = {"PATH": os.environ["PATH"], "HOME": env.get("HIVE_HOME", "/nonexistent"), **env}
        self._process: subprocess.Popen[str] | warm.WarmProcess
        if is_warm and not under and warm.can_start(env):
            self._process = warm.start(arguments, env)
        else:
            self._process = subprocess.Popen(
                bound_to_us([*under, sys.executable, "-m", *arguments]),  # a run that is killed leaves nothing behind
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        _started.add(self)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def logged(self, message: str) -> dict[str, Any] | None:
        """The first JSON log line with this message."""
        return self.logged_with("message", message)

    def logged_with(self, field: str, value: str) -> dict[str, Any] | None:
        """The first JSON log line whose field has this value."""
        for line in self.lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get(field) == value:
                    return entry
        return None

    def wait_for_log(self, message: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            if self._process.poll() is not None:
                raise RuntimeError(f"the process ended:\n{self.output}")
            return self.logged(message)

        found: dict[str, Any] = wait_for(look, what=f"log line {message!r}")
        return found

    def signal(self, sig: signal.Signals) -> None:
        os.kill(self.pid, sig)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        code = self._process.wait(deadline_s)
        _started.discard(self)
        self._reader.join(deadline_s)
        return code

    def kill(self) -> None:
        """With all that it forked, and no time to say good-bye."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        self._close()

    def _close(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()

    @contextlib.contextmanager
    def killed_unless_ready(self) -> Iterator[None]:
        """It does not outlive the failure of a block that waits until it is of use: nobody has it in hand yet."""
        try:
            yield
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """End it in order; kill it, and all it forked, where it does not."""
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            self._close()


class Server(HiveProcess):
    """`hive serve` on a free port, or on one that an earlier one had."""

    def __init__(self, env: Mapping[str, str], under: Sequence[str] = (), port: int = 0) -> None:
        super().__init__("hive.cli", "serve", "--port", str(port), env=env, under=under, is_warm=True)
        with self.killed_unless_ready():
            self.url: str = self.wait_for_log("listening")["address"]
        self.port = int(self.url.rpartition(":")[2])

    def wait_until_ready(self, deadline_s: float = DEADLINE_S) -> None:
        """Until it is subscribed and answers `/readyz` with 200; it is killed where it does not."""

        def is_ready() -> bool:
            return requests.get(f"{self.url}/readyz", timeout=60).status_code == 200

        with self.killed_unless_ready():
            wait_for(is_ready, "the server is ready", deadline_s)


class Workers(HiveProcess):
    """`hive worker --concurrency N`."""

    def __init__(self, env: Mapping[str, str], concurrency: int = 1, under: Sequence[str] = ()) -> None:
        super().__init__("hive.cli", "worker", "--concurrency", str(concurrency), env=env, under=under, is_warm=True)
        with self.killed_unless_ready():
            self.wait_for_log(f"{concurrency} workers are ready")


Process = TypeVar("Process", bound=HiveProcess)


@contextlib.contextmanager
def stopping(process: Process) -> Iterator[Process]:
    """End the process when the block ends."""
    try:
        yield process
    finally:
        process.stop()


def environment(redis_url: str, folder: Path, **more: str) -> dict[str, str]:
    """What the processes of one test share. Requests are not limited: all of a test come from one address."""
    return {
        "REDIS_URL": redis_url,
        "HIVE_STORE": str(folder / "store"),
        "HIVE_HOME": str(folder / "home"),
        "HIVE_LOG_FORMAT": "json",
        "HIVE_MAX_ANONYMOUS_REQUESTS_PER_SECOND": "0",
        "HIVE_MAX_REQUESTS_PER_SECOND": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


#: Starts a replica: `start(redis_url, **settings)`, where both may be left out.
Serve = Callable[..., Server]


@contextlib.contextmanager
def serving(redis_url: str, folder: Path, **defaults: str) -> Iterator[Serve]:
    """A function that starts replicas; at the block's end all must end in order, and none may have failed."""
    servers: list[Server] = []
    with contextlib.ExitStack() as stack:

        def start(url: str = redis_url, **settings: str) -> Server:
            server = Server(environment(url, folder, **{**defaults, **settings}))
            servers.append(server)
            stack.callback(server.stop)
            server.wait_until_ready()
            return server

        yield start
    for server in servers:
        assert "Traceback" not in server.output, server.output


class ManyProcesses(HiveProcess):
    """A server of two processes."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__("hive.cli", "serve", "--port", "0", "--processes", "2", env=env, is_warm=True)
        with self.killed_unless_ready():
            self.url: str = self.wait_for_log("listening")["address"]
            wait_for(lambda: len(children(self.pid)) == 2)
            wait_for(self.ready)

    def ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/readyz", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False
