"""The disk alone: no Redis, no server."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from tests.support.settings import settings_for


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


@pytest.fixture
def catalog(settings: Settings) -> ModelCatalog:
    return ModelCatalog(settings)
