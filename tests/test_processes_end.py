"""Processes of hive that a test starts end with it, also where it breaks off before anybody has them in hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import HiveProcess, Server, Workers, environment, is_alive, none_left_behind


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
