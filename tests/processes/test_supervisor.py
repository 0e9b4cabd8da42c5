"""Children that are kept running, with real processes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hive.processes import supervisor
from hive.processes.children import bound_to_us, python_module, signal_group
from hive.processes.supervisor import Child
from tests.support.processes import is_alive
from tests.support.waiting import AT_ONCE_S, wait_for, wait_for_async

pytestmark = pytest.mark.anyio


class Log:
    """What the children and the supervisor said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.times: list[float] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self.times.append(time.monotonic())

    def has(self, part: str) -> bool:
        return any(part in line for _, line in self.lines)


def child(log: Log, script: str, name: str = "one") -> Child:
    return Child(name, [sys.executable, "-u", "-c", script], dict(os.environ), log)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_MIN_S", 0.05)


async def test_each_line_is_given_with_the_name_of_who_wrote_it() -> None:
    log = Log()
    one = child(
        log, "import sys, time; print('out'); print('err', file=sys.stderr); print('rest', end=''); time.sleep(60)"
    )
    one.start()
    await wait_for_async(lambda: len(log.lines) >= 2, "no lines")
    await one.stop(5)
    assert sorted(log.lines) == [("one", "err"), ("one", "out"), ("one", "rest")]


async def test_a_line_without_an_end_is_cut() -> None:
    log = Log()
    one = child(
        log, "import sys, time; sys.stdout.write('x' * 300_000 + '\\nafter\\n'); sys.stdout.flush(); time.sleep(60)"
    )
    one.start()
    await wait_for_async(lambda: log.has("after"), "no line after the long one")
    await one.stop(5)
    assert sum(line.count("x") for _, line in log.lines) == 300_000
    assert max(len(line) for _, line in log.lines) <= 2 * supervisor.MAX_LINE_BYTES


async def test_a_child_that_dies_starts_again_with_a_growing_pause() -> None:
    log = Log()
    one = child(log, "import sys; sys.exit(7)")
    one.start()
    await wait_for_async(lambda: one.restarts >= 3, "no restarts")
    await one.stop(5)
    told = [line for name, line in log.lines if name == "hive"]
    assert told[0] == "one ended with code 7 and starts again in 0 s"
    pauses = [after - before for before, after in pairwise(log.times)]
    assert all(pause >= 0.05 * 2**at for at, pause in enumerate(pauses))


async def test_a_killed_child_comes_back() -> None:
    log = Log()
    one = child(log, "import time; print('here'); time.sleep(60)")
    one.start()
    await wait_for_async(lambda: log.has("here"), "not started")
    first = one.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await wait_for_async(lambda: one.restarts == 1 and one.pid not in (None, first), "not started again")
    assert log.has("was ended by SIGKILL")
    await one.stop(5)
    assert one.pid is None


async def test_a_child_that_cannot_be_started_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    begin, refusals = asyncio.create_subprocess_exec, [errno.EAGAIN, errno.ENOMEM]

    async def refuse_at_first(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if refusals:
            number = refusals.pop(0)
            raise OSError(number, os.strerror(number))
        return await begin(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse_at_first)
    one = child(log, "import time; print('here'); time.sleep(60)")
    before = len(os.listdir("/dev/fd"))
    one.start()
    await wait_for_async(lambda: log.has("here"), "not started")
    assert log.lines[0] == (
        "hive",
        "one cannot be started (Resource temporarily unavailable) and starts again in 0 s",
    )
    await one.stop(5)
    assert len(os.listdir("/dev/fd")) <= before


async def test_stop_asks_first_and_does_not_start_it_again() -> None:
    log = Log()
    script = """
import signal, sys, time
signal.signal(15, lambda *_: (print("bye"), sys.exit(0)))
print("up")
time.sleep(60)
"""
    one = child(log, script)
    one.start()
    await wait_for_async(lambda: log.has("up"), "not started")
    await one.stop(5)
    assert log.lines == [("one", "up"), ("one", "bye")]
    assert one.restarts == 0


async def test_a_child_that_does_not_listen_is_killed_with_its_group(tmp_path: Path) -> None:
    log = Log()
    script = f"""
import os, signal, subprocess, time
signal.signal(15, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("up")
time.sleep(60)
"""
    one = child(log, script)
    one.start()
    await wait_for_async(lambda: log.has("up"), "not started")
    pid = one.pid
    assert pid is not None
    await one.stop(0.2)
    grandchild = int((tmp_path / "pid").read_text())
    await wait_for_async(lambda: not is_alive(pid) and not is_alive(grandchild), "the group is alive")
    assert log.has("killed")


async def test_stop_in_the_pause_before_a_start_ends_it_at_once() -> None:
    log = Log()
    one = child(log, "import sys; sys.exit(1)")
    supervisor_pause = 4 * AT_ONCE_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "RESTART_MIN_S", supervisor_pause)
        one.start()
        await wait_for_async(lambda: log.has("starts again"), "not ended")
        started = time.monotonic()
        await one.stop(4 * AT_ONCE_S)
    assert time.monotonic() - started < AT_ONCE_S


async def test_a_grandchild_that_holds_the_output_does_not_hold_the_child() -> None:
    log = Log()
    one = child(log, "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
    one.start()
    await wait_for_async(lambda: one.restarts >= 1, "waits for the grandchild")
    await one.stop(5)
    grandchildren = [int(line) for name, line in log.lines if name == "one"]
    assert is_alive(grandchildren[0]), "it still holds the output"
    for pid in grandchildren:
        os.kill(pid, signal.SIGKILL)


async def test_children_have_groups_of_their_own() -> None:
    log = Log()
    one = child(log, "import os, time; print(os.getpgid(0) == os.getpid()); time.sleep(60)")
    one.start()
    await wait_for_async(lambda: log.lines, "no line")
    await one.stop(5)
    assert log.lines[0] == ("one", "True")


PARENT = """
import subprocess, sys, time
from hive.processes.children import bound_to_us
child = subprocess.Popen(bound_to_us([sys.executable, "-c", "import time; time.sleep(60)"]), process_group=0)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's PR_SET_PDEATHSIG is Linux only")
async def test_a_child_ends_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    wait_for(lambda: not is_alive(pid), "the child outlives its parent")


async def test_a_module_of_the_working_directory_is_not_run_by_chance(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("")
    (tmp_path / "workers" / "__main__.py").write_text("print('wrong one')")
    done = subprocess.run(python_module("workers", "--help"), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "wrong one" not in done.stdout


async def test_a_signal_to_a_group_that_is_gone_is_no_error() -> None:
    with subprocess.Popen(["true"], process_group=0) as process:
        process.wait()
    signal_group(process.pid, signal.SIGTERM)
    assert process.returncode == 0
    assert bound_to_us(["/bin/true"])[-1] == "/bin/true"
