"""A Redis of the test's own, and replicas of `hive serve` on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.processes import Serve, serving


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that hive serves with."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def serve(own_redis: EmbeddedRedis, tmp_path: Path) -> Iterator[Serve]:
    """Gives replicas; all must end in order, unless the test has ended them."""
    with serving(own_redis.url, tmp_path) as start:
        yield start
