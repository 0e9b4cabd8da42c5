"""F8, F11, F13: the server behind the address fails over, the origin misbehaves all the time, a replica dies."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.processes.children import bound_to_us
from hive.processes.embedded_redis import find_server
from hive.redis.client import RedisClient, connect
from hive.redis.errors import is_redis_error
from tests.chaos.watched_download import QUICK_BYTES_PER_S, WatchedDownload
from tests.chaos.world import World
from tests.hub import faults
from tests.support.content import MIB
from tests.support.ports import free_port
from tests.support.waiting import AT_ONCE_S, wait_for

#: Seconds within which a download must have ended after a failover, when nothing but that holds it up.
FAILOVER_S = 2 * AT_ONCE_S
#: Those who watch at a replica that is killed.
CROWD = 200


class TcpRedis:
    """A Redis on a port, which may be another's replica."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        arguments = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "")
        with (folder / "log").open("wb") as log:
            command = bound_to_us([find_server(), *arguments, "--appendonly", "yes", "--repl-diskless-sync-delay", "0"])
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.client: RedisClient = connect(f"redis://127.0.0.1:{self.port}/0")
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except Exception as error:
            if not is_redis_error(error):
                raise
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.client.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[TcpRedis, TcpRedis]]:
    """A master and its replica, in step."""
    with contextlib.ExitStack() as stack:
        master, replica = TcpRedis(tmp_path / "a"), TcpRedis(tmp_path / "b")
        stack.callback(master.kill)
        stack.callback(replica.kill)
        replica.client.replicaof("127.0.0.1", master.port)
        wait_for(lambda: replica.client.info("replication").get("master_link_status") == "up")
        yield master, replica


def test_a_failover_behind_one_address_costs_no_attempt(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[TcpRedis, TcpRedis]
) -> None:
    """What Sentinel does, seen from hive: the address leads to the promoted replica, after some seconds without any."""
    master, replica = pair
    with World(tmp_path_factory.mktemp("f"), replicas=2, pools=1, address=("127.0.0.1", master.port)) as world:
        world.hub.limit_rate_bytes_per_s = 0.25 * MIB
        download = WatchedDownload(world).under_way()
        wait_for(lambda: replica.client.exists(f"hive:{{{download.id}}}"))
        master.kill()
        killed_s = time.monotonic()
        wait_for(lambda: time.monotonic() - killed_s > 2, what="an election")
        replica.client.replicaof("NO", "ONE")
        for process in world.processes:
            process.cable.target = ("127.0.0.1", replica.port)
        assert download.at_full_speed().complete().attempt == 1
        assert time.monotonic() - killed_s < FAILOVER_S
        after = WatchedDownload(world, MIB).complete()
        assert after.attempt == 1
    assert world.judge() + world.leftovers() == []


def test_a_file_whose_connection_is_cut_at_each_twentieth_arrives(world: World) -> None:
    world.hub.limit_rate_bytes_per_s = QUICK_BYTES_PER_S
    size = 40 * MIB
    for twentieth in range(1, 20):
        world.hub.faults.add(faults.cut(at_offset=size * twentieth // 20), "*.gguf", origin="cdn", count=1)
    download = WatchedDownload(world, size)
    assert download.complete().attempt == 1
    assert download.sent < size + 19 * MIB / 4


def test_an_origin_that_does_everything_wrong_for_a_while_does_not_spoil_a_file(world: World) -> None:
    world.hub.limit_rate_bytes_per_s = None
    size = 40 * MIB
    add = world.hub.faults.add
    add(faults.too_many_requests(1), "*.gguf", origin="cdn", count=2, skip=1)
    add(faults.status(503), "*.gguf", origin="cdn", count=2, skip=2)
    add(faults.no_range(), "*.gguf", origin="cdn", count=1, skip=3)
    add(faults.stall(at_offset=size // 3, seconds=2), "*.gguf", origin="cdn", count=1)
    add(faults.short_body(at_offset=size // 2), "*.gguf", origin="cdn", count=1)
    add(faults.wrong_byte(size - 5), "*.gguf", origin="cdn", count=1)
    assert WatchedDownload(world, size).complete().attempt == 1


def test_a_crowd_whose_replica_is_killed_sees_the_end_at_another(world: World) -> None:
    download = WatchedDownload(world, viewers=CROWD, only=0).under_way()
    wait_for(lambda: all(viewer.witness.seen for viewer in download.watch.viewers))
    assert {viewer.replica for viewer in download.watch.viewers} == {0}
    world.replicas[0].kill()
    download.at_full_speed().complete()
    assert {viewer.replica for viewer in download.watch.viewers} == {1}
    world.replicas[0].restart()
