"""Settings for tests: everything that hive would write lies in the test's folder."""

from __future__ import annotations

from pathlib import Path

from hive.settings import Settings


def settings_for(folder: Path, **more: str) -> Settings:
    """Settings whose store and home lie in this folder, read from an environment that holds nothing else but `more`."""
    return Settings.from_env({"HIVE_STORE": str(folder / "store"), "HIVE_HOME": str(folder / "home"), **more})
