"""Settings of a worker that asks the stand-in of the Hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.settings import Settings
from tests.hub import HubServer
from tests.support.settings import settings_for


@pytest.fixture
def hub_settings(tmp_path: Path, hub: HubServer) -> Settings:
    return settings_for(tmp_path, HF_ENDPOINT=hub.endpoint)
