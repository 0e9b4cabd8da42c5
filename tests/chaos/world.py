"""The world of the chaos: a real Redis, replicas and pools as processes, each on a cable of its own, and the Hub's
stand-in. Everything in it may be killed, frozen, cut off and started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import requests

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from tests.chaos.history import Watch
from tests.chaos.proxy import Address, LoopThread, Proxy
from tests.hub.server import HubServer
from tests.support.balancer import Balancer
from tests.support.downloads import download_context
from tests.support.ports import free_port
from tests.support.processes import HiveProcess, children, is_alive
from tests.support.release import environment_of
from tests.support.waiting import wait_for

#: Seconds that one request of a person may take.
REQUEST_S = 6.0
#: Seconds within which a request must have found a replica that answers it.
PATIENCE_S = 60.0
#: What processes log when something of theirs failed that must not.
FAILURE_MARKS = ("Traceback", "failed; it")
#: What nginx is told of each replica: none is left out for a while because it refused once. Where two restart one after
#: the other, both would be, and nginx answers 502 although one of them is there.
BALANCED = "max_fails=0"
#: The process id in a worker's name.
WORKER_PID = re.compile(r"\.(\d+)\.[0-9a-f]+$")
#: What a pool logs when one of its workers ended.
WORKER_ENDED = "a process ended; replacing it"


class Holding(NamedTuple):
    """Who runs a download: the pool, the worker process, and its horse."""

    download_id: str
    pool: RestartableProcess
    worker: int
    horse: int


class RestartableProcess:
    """A process of hive, over all its lives."""

    def __init__(
        self,
        name: str,
        cable: Proxy,
        env: Mapping[str, str],
        arguments: tuple[str, ...],
        ready: str,
        version: str = "",
    ) -> None:
        self.name = name
        self.cable = cable
        self.lives: list[HiveProcess] = []
        #: Its environment, from its next life on.
        self.env = {**env, "REDIS_URL": cable.url}
        self._arguments = arguments
        self._ready = ready
        #: The release whose code it runs; "" for this one.
        self.version = version
        self._killed = False
        #: Where a replica listens, or listened last.
        self.url = ""
        self.start()

    @property
    def process(self) -> HiveProcess:
        """Its present life."""
        return self.lives[-1]

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """A new life; returns when the process says that it is ready."""
        self.launch()
        wait_for(lambda: self.is_ready, what=f"{self.name} is ready")

    def launch(self) -> None:
        """A new life, which nobody waits for: see `is_ready`."""
        self.lives.append(HiveProcess(*self._arguments, env=self.env))
        self._killed = False

    @property
    def is_gone(self) -> bool:
        """Whether its present life is over."""
        return self.process.ended

    @property
    def is_ready(self) -> bool:
        """Whether its present life has said so. Raises AssertionError where it ended instead."""
        assert not self.is_gone, f"{self.name} ended:\n{self.process.output}"
        if (entry := self.process.logged(self._ready)) is None:
            return False
        self.url = entry.get("address", "")
        return True

    def stop(self) -> float:
        """End it in order; gives the seconds that it took. Raises AssertionError where it did not end well."""
        began_s = time.monotonic()
        try:
            code = self.process.stop()
        except subprocess.TimeoutExpired as error:
            tail = "\n".join(self.process.lines[-40:])
            raise AssertionError(f"{self.name} does not end:\n{tail}") from error
        assert code == 0 or self._killed, f"{self.name} exited with {code}:\n{self.process.output}"
        return time.monotonic() - began_s

    def kill(self) -> None:
        """kill -9."""
        self._killed = True
        self.process.signal(signal.SIGKILL)
        self.process.wait()

    def kill_all(self) -> list[int]:
        """kill -9 of the process and of all that it forked, as where a container ends; gives their ids."""
        pids = [self.pid, *descendants(self.pid)]
        self._killed = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        return pids

    def restart(self) -> None:
        """A new life after a `kill` or `stop`; what was left of the old one is put away."""
        self.process.stop()
        self.start()


class World:
    """Everything that hive runs in. Use it as a context manager, from one thread: its children end with that thread."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 2,
        pools: int = 2,
        concurrency: int = 2,
        address: tuple[str, int] | None = None,
        balanced: bool = False,
        version: str = "",
        **settings: str,
    ) -> None:
        """`address`: a Redis to use in place of the world's own. `balanced`: people reach the replicas through nginx.
        `version`: the release whose code its processes run at first. `settings` are hive's, by the variables' names.
        """
        self.folder = folder
        #: Processes that were killed on purpose.
        self.killed: set[int] = set()
        self.closed = False
        self._told: set[str] = set()
        self._after: contextlib.ExitStack
        with contextlib.ExitStack() as stack:
            self.thread = LoopThread()
            stack.callback(self.thread.stop)
            self.redis = EmbeddedRedis(folder / "r").start()
            stack.callback(self.redis.stop)
            self._address: Address = address or unquote(self.redis.url.removeprefix("unix://"))
            self.client = connect(f"redis://{address[0]}:{address[1]}/0" if address else self.redis.url)
            stack.callback(self.client.close)
            self.hub = HubServer().start()
            stack.callback(self.hub.stop)
            self.downloads = download_context(self.client, ended_ttl_s=3600, max_queued=1000, lease_s=6)
            self.env = self._environment(settings)
            self.processes: list[RestartableProcess] = []
            stack.callback(self._stop_processes)
            self.version = version
            ports = [free_port() if balanced else 0 for _ in range(replicas)]
            self.replicas = [
                self.add(f"replica-{n}", ("hive.cli", "serve", "--port", str(port)), "listening")
                for n, port in enumerate(ports)
            ]
            self.balancer = Balancer(folder / "nginx", ports, BALANCED) if balanced else None
            if self.balancer is not None:
                stack.enter_context(self.balancer)
            self.pools = [self.add_pool(f"pool-{n}", concurrency) for n in range(pools)]
            for replica in self.replicas:
                wait_for(lambda replica=replica: self.answers(replica), what="a replica that is ready")  # type: ignore[misc]
            self._after = stack.pop_all()

    def add_pool(self, name: str, concurrency: int, module: tuple[str, ...] = ("workers",)) -> RestartableProcess:
        """One more pool of workers."""
        arguments = (*module, "--concurrency", str(concurrency))
        return self.add(name, arguments, f"{concurrency} workers are ready")

    def add(self, name: str, arguments: tuple[str, ...], ready: str) -> RestartableProcess:
        """One more process of hive."""
        cable = Proxy(self.thread, self._address)
        env = {**self.env, **self.code_of(self.version)}
        process = RestartableProcess(name, cable, env, arguments, ready, self.version)
        self.processes.append(process)
        return process

    def code_of(self, version: str) -> dict[str, str]:
        """What a process needs in its environment to run this release's code; "" is this one."""
        return environment_of(version, self.folder) if version else {"PYTHONPATH": "", "PYTHONSAFEPATH": ""}

    def change_version(self, process: RestartableProcess, version: str) -> None:
        """Its next life is of this release."""
        process.version = version
        process.env = {**process.env, **self.code_of(version)}

    def __enter__(self) -> World:
        return self

    def __exit__(self, *of_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything. Raises what did not end in order."""
        if not self.closed:
            self.closed = True
            self._after.close()

    # -- what people do ----------------------------------------------------------------------------------------------

    def urls(self) -> list[str]:
        """Where people reach the replicas now."""
        if self.balancer is not None:
            return [self.balancer.url]
        return [replica.url for replica in self.replicas]

    def answers(self, replica: RestartableProcess) -> bool:
        """Whether a replica is ready."""
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{replica.url}/readyz", timeout=REQUEST_S).status_code == 200
        return False

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """The answer of whichever replica answers with less than 500. Raises TimeoutError."""
        deadline_s, turn = time.monotonic() + PATIENCE_S, int(time.monotonic())
        while time.monotonic() < deadline_s:
            turn += 1
            urls = self.urls()
            url = urls[turn % len(urls)]
            with contextlib.suppress(requests.RequestException):
                answer = requests.request(method, url + path, timeout=REQUEST_S, **arguments)
                if answer.status_code < 500:
                    return answer
            time.sleep(0.1)
        raise TimeoutError(f"nobody answers {method} {path}")

    def post(self, model_ref: str, **body: Any) -> str:
        """The id of a download."""
        answer = self.ask("POST", "/v1/models/download", json={"model_ref": model_ref, **body})
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["download_id"])

    def watch(self, download_id: str, **how: Any) -> Watch:
        """Three who watch a download."""
        return Watch(self.thread, self.urls, download_id, **how)

    # -- who is who --------------------------------------------------------------------------------------------------

    def holdings(self) -> list[Holding]:
        """Who runs what now. Raises what a Redis raises that is away."""
        by_worker = {worker: pool for pool in self.pools for worker in children_of(pool.pid)}
        found = []
        for record in self.downloads.tracker.page(limit=100).records:
            if record.state != "running":
                continue
            worker = int((WORKER_PID.search(record.worker) or [0, 0])[1])
            horses = children_of(worker)
            if worker in by_worker and horses:
                found.append(Holding(record.id, by_worker[worker], worker, horses[0]))
        return found

    def holding(self, download_id: str) -> Holding:
        """Who runs this download."""
        found: Holding = wait_for(
            lambda: next((h for h in self.holdings() if h.download_id == download_id), None), what="a holder"
        )
        return found

    def kill(self, *pids: int) -> None:
        """kill -9; noted as done on purpose."""
        for pid in pids:
            self.killed.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- what must not be --------------------------------------------------------------------------------------------

    def judge(self) -> list[str]:
        """What its processes did since the last call that they must not: fail, or end without having been killed."""
        wrong: list[str] = []
        for process in self.processes:
            for life in process.lives:
                wrong += [
                    f"{process.name}: {line[:2000]}" for line in life.lines if any(s in line for s in FAILURE_MARKS)
                ]
                wrong += [f"{process.name}: worker {pid} ended by itself" for pid in workers_ended(life) - self.killed]
        new = [problem for problem in wrong if problem not in self._told]
        self._told.update(new)
        return new

    def leftovers(self) -> list[str]:
        """Processes of this world that are still there."""
        mark = f"HIVE_HOME={self.env['HIVE_HOME']}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                pid = int(folder.name) if folder.name.isdecimal() else os.getpid()
                if pid != os.getpid() and mark in (folder / "environ").read_bytes() and is_alive(pid):
                    found.append(f"a process was left behind: {pid} {(folder / 'cmdline').read_bytes()!r}")
        return found

    def write_logs(self, folder: Path) -> None:
        """Every line that the processes wrote."""
        folder.mkdir(parents=True, exist_ok=True)
        for process in self.processes:
            lines = [line for life in process.lives for line in ("-- started", *life.lines)]
            (folder / f"{process.name}.log").write_text("\n".join(lines) + "\n")
        (folder / "redis.log").write_text(self.redis.log_tail())

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {
            "HIVE_STORE": str(self.folder / "store"),
            "HIVE_HOME": str(self.folder / "home"),
            "HIVE_LOG_FORMAT": "json",
            "HIVE_DRAIN_S": "0.2",
            "HIVE_KEEPALIVE_S": "1",
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            **settings,
        }

    def _stop_processes(self) -> None:
        with contextlib.ExitStack() as stack:
            for process in self.processes:
                stack.callback(process.cable.close)
                stack.callback(process.stop)


def children_of(pid: int) -> list[int]:
    """The child processes; none where it is gone."""
    with contextlib.suppress(OSError):
        return children(pid)
    return []


def descendants(pid: int) -> list[int]:
    """The child processes, and theirs; none where it is gone."""
    below = children_of(pid)
    return [*below, *(further for child in below for further in descendants(child))]


def workers_ended(life: HiveProcess) -> set[int]:
    """The workers of a pool that ended while it lived."""
    found = set()
    for line in life.lines:
        if WORKER_ENDED in line:
            with contextlib.suppress(ValueError, KeyError):
                found.add(int(json.loads(line)["pid"]))
    return found
