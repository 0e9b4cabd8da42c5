"""A receiver, and servers that send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.redis.client import RedisClient
from hive.settings import Settings
from hive.wire import keys
from tests.support.processes import Serve, Server, serving
from tests.support.settings import settings_for
from tests.support.waiting import wait_for
from tests.support.webhook_receiver import QUICK, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def webhook_settings(tmp_path: Path, redis_url: str, receiver: Receiver) -> Settings:
    """Settings under which every end goes to the receiver."""
    return settings_for(tmp_path, REDIS_URL=redis_url, HIVE_WEBHOOK_URLS=receiver.url, **QUICK)


@pytest.fixture
def serve(redis_url: str, tmp_path: Path) -> Iterator[Serve]:
    """Gives replicas of one Redis; all must end in order, unless the test has ended them."""
    with serving(redis_url, tmp_path, HIVE_DRAIN_S="0", **QUICK) as start:
        yield start


@pytest.fixture
def everywhere(serve: Serve, receiver: Receiver, store: RedisClient) -> Server:
    """A server whose settings send every end to the receiver."""
    server = serve(HIVE_WEBHOOK_URLS=receiver.url)
    wait_for(lambda: store.zcard(keys.WEBHOOKS_STANDING), what="the server has said where ends go")
    return server
