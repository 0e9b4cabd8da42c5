"""Redis servers as fleets have them: with TLS, with users, as replicas, with Sentinels; each a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from hive.processes.children import bound_to_us
from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.waiting import wait_for

#: What a user of an empty server gets, and nobody has outside of tests.
PASSWORD = "pass#word"


class RedisServer:
    """A `redis-server` (Debian's, which speaks TLS) on a port of the loopback; `options` are those of its command line,
    and `lines` those of its file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        sentinel: bool = False,
        lines: tuple[str, ...] = (),
        password: str | None = None,
        **options: str,
    ) -> None:
        self.port = port or free_port()
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir(exist_ok=True)
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._is_sentinel = sentinel
        is_tls = "tls_cert_file" in options
        settings = {
            "port": "0" if is_tls else str(self.port),
            **({"tls-port": str(self.port)} if is_tls else {}),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "logfile": str(self.folder / "log"),
            **({} if sentinel else {"save": '""', "appendonly": "yes"}),
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        if "cluster_enabled" in options:
            # By default 10,000 above the other: among those of clients, one of whom may have it.
            settings["cluster-port"] = str(free_port())
        if password is not None:
            settings["requirepass"] = f'"{password}"'
        self.file = self.folder / "redis.conf"
        self.file.write_text("".join(f"{line}\n" for line in (*(f"{k} {v}" for k, v in settings.items()), *lines)))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> RedisServer:
        command = [program("redis-server"), str(self.file), *(["--sentinel"] if self._is_sentinel else [])]
        self._process = subprocess.Popen(bound_to_us(command), stdout=subprocess.DEVNULL)
        wait_for(self._answers, what="a redis-server answers")
        return self

    def _answers(self) -> bool:
        """Whether it says anything, also that one must log in. It listens before it has made its files, which takes
        seconds on a busy disk, and before it ends over what it cannot have.
        """
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as plain:
                plain.sendall(b"PING\r\n")
                plain.recv(1)  # nothing, where it speaks TLS and closes
        except ConnectionResetError:
            return True
        except OSError:
            return False
        return True

    def client(self, **options: object) -> Redis:
        """An administrator's."""
        given: dict[str, Any] = {"password": self._password, **options}
        return Redis(port=self.port, decode_responses=True, **given)

    def kill(self) -> None:
        """With no time to say good-bye."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """May be called at any time."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(20)


@contextlib.contextmanager
def redis_server(folder: Path, **options: object) -> Iterator[RedisServer]:
    """One of them, until the end of the block."""
    made = RedisServer(folder, **options)  # type: ignore[arg-type]
    try:
        yield made.start()
    finally:
        made.stop()


def speaks_tls() -> bool:
    """Whether this machine's redis-server was built with TLS: only then does it ask for a certificate."""
    command = [program("redis-server"), "--port", "0", "--tls-port", str(free_port())]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    return "No tls-cert-file" in said


#: Milliseconds after which Sentinels believe a server dead, and for a failover.
DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS = 2_000, 10_000


class SentinelFleet:
    """A primary, two replicas, three Sentinels, all with passwords: that of the Sentinels is another one."""

    NAME = "mymaster"
    SENTINEL_PASSWORD = "sentinels-pass"

    def __init__(self, folder: Path, *, lines: tuple[str, ...] = ()) -> None:
        own = (f'masterauth "{PASSWORD}"', "repl-diskless-sync-delay 0", *lines)
        self.servers = [RedisServer(folder, password=PASSWORD, lines=own)]
        behind = (*own, f"replicaof 127.0.0.1 {self.servers[0].port}")
        self.servers += [RedisServer(folder, password=PASSWORD, lines=behind) for _ in range(2)]
        watch = (
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.servers[0].port} 2",
            f"sentinel down-after-milliseconds {self.NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {self.NAME} {FAILOVER_TIMEOUT_MS}",
            f'sentinel auth-pass {self.NAME} "{PASSWORD}"',
            f"sentinel sentinel-pass {self.SENTINEL_PASSWORD}",
        )
        self.sentinels = [
            RedisServer(folder, sentinel=True, password=self.SENTINEL_PASSWORD, lines=watch) for _ in range(3)
        ]

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        password = PASSWORD.replace("#", "%23")
        return f"redis+sentinel://:{password}@{places}/{self.NAME}/0?sentinel_password={self.SENTINEL_PASSWORD}"

    def start(self) -> SentinelFleet:
        for server in self.servers:
            server.start()
        wait_for(lambda: self._replicas(self.servers[0]) == 2, "both replicas are connected")
        for sentinel in self.sentinels:
            sentinel.start()
        wait_for(lambda: all(self._knows_all(sentinel) for sentinel in self.sentinels), "the Sentinels know each other")
        return self

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.stop()

    def primary(self) -> RedisServer:
        """The server that most Sentinels name."""
        named = [self._named_by(sentinel) for sentinel in self.sentinels]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    def wait_for_another(self, former: RedisServer) -> RedisServer:
        """Until the Sentinels have made another server the primary, and it says so itself."""

        def look() -> RedisServer | None:
            found = self.primary()
            return found if found is not former and self._role(found) == "master" else None

        return wait_for(look, "the Sentinels have made another primary")

    def is_replicated(self, primary: RedisServer) -> bool:
        """Whether both replicas have all that this server has been told."""
        with primary.client() as client:
            found = client.info("replication")
            return all(found[f"slave{n}"]["offset"] == found["master_repl_offset"] for n in range(2))

    @contextlib.contextmanager
    def without_replication(self, primary: RedisServer) -> Iterator[None]:
        """What this server is told meanwhile it tells no replica."""
        replicas = [server for server in self.servers if server is not primary]
        self._set_masterauth(replicas, "wrong")
        with primary.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        try:
            yield
        finally:
            self._set_masterauth(replicas, PASSWORD)

    @staticmethod
    def _set_masterauth(servers: list[RedisServer], password: str) -> None:
        for server in servers:
            with server.client() as client:
                client.config_set("masterauth", password)

    def fail_over(self) -> None:
        """Ask a Sentinel for a failover in order."""
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", self.NAME)

    def _named_by(self, sentinel: RedisServer) -> int:
        try:
            with sentinel.client() as client:
                found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
                return int(found[1])
        except RedisError:
            return 0

    def _knows_all(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            state = client.execute_command("SENTINEL", "MASTER", self.NAME)
            return int(state["num-slaves"]) == 2 and int(state["num-other-sentinels"]) == 2

    @staticmethod
    def _replicas(server: RedisServer) -> int:
        with server.client() as client:
            found = client.info("replication")
            return sum(found.get(f"slave{n}", {}).get("state") == "online" for n in range(2))

    @staticmethod
    def _role(server: RedisServer) -> str:
        try:
            with server.client() as client:
                return str(client.info("replication")["role"])
        except RedisError:
            return ""
