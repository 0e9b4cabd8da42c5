"""An intent log, and what brings lost downloads back from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hive.downloads.intents import IntentLog
from hive.downloads.restore import Restore
from hive.settings import Settings


@pytest.fixture
def intents(settings: Settings) -> IntentLog:
    return IntentLog(settings)


@pytest.fixture
def restorer(settings: Settings, redis_url: str, intents: IntentLog) -> Iterator[Restore]:
    made = Restore(settings, redis_url, intents)
    yield made
    made.stop()
