"""Processes of hive that a test starts end with it, also where it breaks off before anybody has them in hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import HiveProcess, Server, Workers, environment, is_alive, none_left_behind
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def without_redis(tmp_path: Path) -> dict[str, str]:
    """The environment of a server that listens and never gets ready."""
    return environment(f"unix://{tmp_path}/nobody.sock", tmp_path, HIVE_DRAIN_S="0")


def test_a_server_that_does_not_get_ready_is_killed(without_redis: dict[str, str]) -> None:
    server = Server(without_redis)
    with pytest.raises(AssertionError, match="the server is ready"):
        server.wait_until_ready(deadline_s=0.5)
    assert server.ended
    assert server.stop() != 0, "who has it in hand may end it as well"


def test_what_never_says_that_it_is_ready_is_killed(redis_url: str, tmp_path: Path) -> None:
    process = HiveProcess("hive.cli", "worker", env=environment(redis_url, tmp_path))
    with pytest.raises(KeyError), process.killed_unless_ready():
        raise KeyError
    assert not is_alive(process.pid)


def test_what_a_module_leaves_behind_is_killed_and_told(redis_url: str, tmp_path: Path) -> None:
    env = environment(redis_url, tmp_path)
    before = Workers(env)
    try:
        with none_left_behind():
            Workers(env).stop()
        with pytest.raises(AssertionError, match="worker"), none_left_behind():
            left = Workers(env)
        assert left.ended
        assert not before.ended
    finally:
        before.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_benchmark_has_started_ends_with_it(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from benchmarks.running import Process, end_in_order; import time; end_in_order()\n"
        f"with Process(['sleep', '60'], None, log=Path({str(tmp_path / 'log')!r})) as child:\n"
        "    print(child.pid, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=env) as benchmark:
        assert benchmark.stdout is not None
        child = int(benchmark.stdout.readline())
        benchmark.send_signal(number)
    wait_for(lambda: not is_alive(child), "its child has ended")
