"""One stack for all tests, which only scripts/stack-test starts: it needs an engine, and minutes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.stack.budget import remaining_s
from tests.stack.compose import Project
from tests.stack.world import World

_WORLDS: list[World] = []
#: Tests that were left out for want of time.
_LEFT_OUT: list[str] = []
#: Seconds that a test takes on a busy machine (`@pytest.mark.takes(seconds)` where it is more), and the stack's end.
TEST_S: Final = 60.0
DOWN_S: Final = 45.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the script none of them runs."""
    if "HIVE_TEST_ENGINE" not in os.environ:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="scripts/stack-test runs it"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nothing is begun that cannot be over in time."""
    mark = item.get_closest_marker("takes")
    needs_s = (mark.args[0] if mark is not None else TEST_S) + DOWN_S
    if remaining_s() < needs_s:
        _LEFT_OUT.append(item.name)
        pytest.skip(f"left out: {remaining_s():.0f} s of the budget are left, and it may take {needs_s:.0f}")


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    # Not pytest's folder, which only root may look into: the stack is another user.
    folder = Path(tempfile.mkdtemp(prefix="hive-stack-", dir="/var/tmp"))
    folder.chmod(0o755)
    found = World(folder)
    _WORLDS.append(found)
    try:
        found.up()
        yield found
    finally:
        found.project.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(world: World) -> Iterator[Project]:
    """A second stack beside it, which is not up yet, with a Redis and a store of its own."""
    port = 0
    found = Project("hive-stack-test-2", world.settings(port) | {"HIVE_MODELS": f"{world.models.parent}/second"})
    try:
        yield found
    finally:
        found.down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What the containers said, where a test fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and _WORLDS:
        report.sections.append(("containers", _WORLDS[0].project.logs()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures."""
    for world in _WORLDS:
        terminalreporter.section("measured")
        for line in world.figures:
            terminalreporter.line(line)
    if _LEFT_OUT:
        terminalreporter.section("LEFT OUT for want of time")
        for name in _LEFT_OUT:
            terminalreporter.line(name)
