"""What the sources read comes from the stand-in of the Hub."""

from __future__ import annotations

import pytest

from hive.settings import Settings


@pytest.fixture
def settings(hub_settings: Settings) -> Settings:
    return hub_settings
