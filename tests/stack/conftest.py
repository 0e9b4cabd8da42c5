"""Two stacks side by side, which only scripts/stack-test starts: they need an engine, and minutes.

One is what faults are done to, with servers and workers of which some can be missed; the other one is what everything
else looks at meanwhile.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.stack.budget import remaining_s
from tests.stack.compose import Project
from tests.stack.world import PROJECT, SERVERS, WORKERS, World

_WORLDS: list[World] = []
#: What the reason of a test begins with that was left out for want of time.
LEFT_OUT: Final = "left out"
#: The name of a measured figure among the properties of a test's report, by which it comes from one process to another.
MEASURED: Final = "measured"
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
        pytest.skip(f"{LEFT_OUT}: {remaining_s():.0f} s of the budget are left, and it may take {needs_s:.0f}")


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The stack that faults are done to."""
    with _running(PROJECT) as found:
        yield found


@pytest.fixture(scope="session")
def quiet_world() -> Iterator[World]:
    """A stack that nothing happens to: one server, one worker."""
    with _running(f"{PROJECT}-quiet", servers=1, workers=1) as found:
        yield found


@contextmanager
def _running(name: str, servers: int = SERVERS, workers: int = WORKERS) -> Iterator[World]:
    # Not pytest's folder, which only root may look into: the stack is another user.
    folder = Path(tempfile.mkdtemp(prefix="hive-stack-", dir="/var/tmp"))
    folder.chmod(0o755)
    found = World(folder, name, servers, workers)
    _WORLDS.append(found)
    try:
        found.up()
        yield found
    finally:
        found.project.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(quiet_world: World) -> Iterator[Project]:
    """A second stack beside it, which is not up yet, with a Redis and a store of its own."""
    port = 0
    found = Project(
        f"{PROJECT}-second", quiet_world.settings(port) | {"HIVE_MODELS": f"{quiet_world.models.parent}/second"}
    )
    try:
        yield found
    finally:
        found.down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What was measured, and what the containers said where a test fails."""
    for world in _WORLDS:
        item.user_properties += [(MEASURED, line) for line in world.figures]
        world.figures.clear()
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections += [(f"containers of {world.project.name}", world.project.logs()) for world in _WORLDS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures, and what there was no time for."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "when")]
    ends = [report for report in reports if report.when == "teardown"]
    if measured := [value for report in ends for name, value in report.user_properties if name == MEASURED]:
        terminalreporter.section("measured")
        for line in measured:
            terminalreporter.line(line)
    if left_out := [report.nodeid for report in reports if report.skipped and LEFT_OUT in str(report.longrepr)]:
        terminalreporter.section("LEFT OUT for want of time")
        for line in left_out:
            terminalreporter.line(line)
