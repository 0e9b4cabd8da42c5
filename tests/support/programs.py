"""Programs of the machine that a test needs: missing at home means skipped, missing in CI means failed."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """The path of this program."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} is missing"
        pytest.skip(f"{name} is not installed")
    return found
