"""Programs of the machine that a test needs: missing at home means skipped, missing in CI means failed."""

from __future__ import annotations

import os
import shutil

import pytest


def is_installed(name: str) -> bool:
    """Whether the program is there, or has to be: in CI."""
    return path_of(name) is not None or os.environ.get("CI") == "true"


def program(name: str) -> str:
    """The path of this program."""
    found = path_of(name)
    if found is None:
        assert os.environ.get("CI") != "true", f"{name} is missing"
        pytest.skip(f"{name} is not installed")
    return found


def path_of(name: str) -> str | None:
    """The path of this program, or None."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
