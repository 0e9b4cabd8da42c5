"""One world for all tests of a module, which each test leaves whole; what failed in it fails the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.watched_download import LEASE_S, SLOW_BYTES_PER_S
from tests.chaos.world import World

#: Lines of each process that are shown where a test fails.
TAIL_LINES = 40


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("w"), HIVE_LEASE_S=str(LEASE_S))
    yield world
    world.close()
    assert world.judge() + world.leftovers() == []


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The world, with a slow and faultless Hub."""
    shared_world.hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
    shared_world.hub.reset_log()
    yield shared_world
    shared_world.hub.faults.clear()
    # Shown where a test fails: what its processes said.
    for process in shared_world.processes:
        print(f"-- {process.name}", *process.process.lines[-TAIL_LINES:], sep="\n")
    assert shared_world.judge() == []
