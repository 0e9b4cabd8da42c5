"""A backup while a download runs, and a restore onto an empty machine, by the commands of docs/backup.md."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from hive.auth.keys import KeyFile
from hive.processes.children import bound_to_us
from hive.processes.redis_programs import find_programs
from hive.redis.client import connect
from hive.settings import Settings
from tests.hub import SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB, file_sha256
from tests.support.ports import free_ports
from tests.support.processes import environment
from tests.support.service import CONTENT, Service, slow, under_way
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

DOCUMENT = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
PASSWORD = "a-password-of-a-test"
#: Seconds for one block of commands.
COMMANDS_S = 120
#: Bytes that have arrived when the copy is made.
ARRIVED = 8 * MIB


class Redis:
    """The programs that the commands call, and a server with an append-only file on a port."""

    def __init__(self, folder: Path) -> None:
        programs = find_programs()
        if not programs:
            pytest.skip("there is no Valkey and no Redis")
        server = Path(programs[0])
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.bin / "redis-server").symlink_to(server)
        (self.bin / "redis-cli").symlink_to(server.with_name(server.name.replace("-server", "-cli")))
        self.dir = folder / "redis"
        self.dir.mkdir()
        (self.port,) = free_ports(1)
        self.url = f"redis://default:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """As a person runs it: with an append-only file."""
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", PASSWORD, "--dir", str(self.dir)]
        self._process = subprocess.Popen(
            bound_to_us([str(self.bin / "redis-server"), *options, "--appendonly", "yes", "--save", ""]),
            stdout=subprocess.DEVNULL,
        )

        def answers() -> bool:
            with connect(self.url) as client:
                try:
                    return bool(client.ping())
                except Exception:
                    return False

        wait_for(answers, "Redis answers")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    made = Redis(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.kill()


def commands(name: str) -> str:
    """A block of the document."""
    found = re.search(rf"<!-- {name} -->\n\n((?:    .*\n)+)", DOCUMENT)
    assert found is not None, name
    return re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


def run(name: str, env: dict[str, str], redis: Redis, backup: Path) -> None:
    """Do what a block says, in a shell that stops at the first command which fails."""
    given = {
        "PATH": f"{redis.bin}:{os.environ['PATH']}",
        "BACKUP": str(backup),
        "REDIS_DIR": str(redis.dir),
        "REDIS_PORT": str(redis.port),
        "REDIS_PASSWORD": PASSWORD,
        **env,
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands(name)],
        env=given,
        cwd=backup.parent,
        capture_output=True,
        text=True,
        timeout=COMMANDS_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def listed(service: Service, what: str) -> list[str]:
    """Ids of a list."""
    answer = requests.get(f"{service.server.url}/v1/{what}", timeout=60)
    return [each["id"] for each in answer.json()["data"]]


@pytest.mark.parametrize("with_redis", [False, True], ids=["Redis stays empty", "Redis comes back too"])
def test_a_restored_hive_goes_on_with_what_was_under_way(
    redis: Redis, hub: HubServer, tmp_path: Path, *, with_redis: bool
) -> None:
    old, new, backup = tmp_path / "old", tmp_path / "new", tmp_path / "backup"
    settings = {"HF_ENDPOINT": hub.endpoint, "HIVE_DRAIN_S": "0.2", "HF_TOKEN": ""}
    env = environment(redis.url, old, **settings)
    hub.create("org/small", {"m-Q4_K_M.gguf": SyntheticFile(MIB, seed=5)})
    service = Service(env, workers=1)
    try:
        ended = service.bring("hf:org/small")
        assert ended["stage"] == "complete"
        download_id, watch = under_way(service, slow(hub), ARRIVED)
        watch.close()
        key = KeyFile(Settings.from_env(env).api_keys_path).add("somebody", ("read",), owner="").key
        run("backup", env, redis, backup)
    finally:
        for process in (service.server, service.workers):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stop()
    redis.kill()
    shutil.rmtree(old)
    shutil.rmtree(redis.dir)
    redis.dir.mkdir()

    env = environment(redis.url, new, **settings)
    run("restore", env, redis, backup)
    keys = Path(Settings.from_env(env).api_keys_path)
    assert [each.id for each in KeyFile(keys).read().keys] == [key.id]
    keys.unlink()  # nobody below shows one
    if with_redis:
        run("restore Redis", env, redis, backup)
    redis.start()
    hub.limit_rate_bytes_per_s = None
    sent_before = hub.bytes_sent("org/slow/*")
    assert sent_before >= ARRIVED
    restored = Service(env, workers=1)
    try:
        wait_for(lambda: restored.show(download_id).get("id") == download_id, "the download is back under its id")
        end = restored.watch(download_id).wait(120).last
        assert end["stage"] == "complete", end
        assert end["local_path"].startswith(str(new))
        assert file_sha256(end["local_path"]) == CONTENT.sha256()
        again = hub.bytes_sent("org/slow/*") - sent_before
        assert again <= CONTENT.size - ARRIVED // 2, "it went on from the bytes of the copy"
        assert len(listed(restored, "downloads")) == (2 if with_redis else 1), "what had ended is in Redis alone"
        assert len(listed(restored, "models")) == 2
    finally:
        restored.stop()
