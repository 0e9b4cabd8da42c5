"""Parts that are started by fork, each from a process of its own: a test run has threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import is_alive
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nothing is forked")

#: Gives `forked`, whose child runs `main` with the argument "word".
BEGINNING = """
import asyncio, json, os, signal, sys, threading, time
from hive.processes.fork import ForkedProcess, Part, try_fork
held = os.open(os.devnull, os.O_RDONLY)
os.set_inheritable(held, True)
load = lambda: None
def begin(main, load=load):
    return try_fork(Part(load, main), ["word"], {"ONE": "1"}, ["python", "-m", "part"])
def end(forked):
    async def wait():
        return await ForkedProcess(forked.pid).wait()
    code = asyncio.run(wait())
    with open(forked.output) as output:
        return code, output.read()
"""


def run(script: str, **env: str) -> Any:
    """What the script prints as JSON."""
    command = [sys.executable, "-c", BEGINNING + script]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_a_part_is_what_a_program_would_be() -> None:
    code, output = run(
        """
def main(words):
    print("out", flush=True)
    print("err", file=sys.stderr)
    open_ones = [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    title = open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").decode()
    handlers = [signal.getsignal(number) is not None for number in (signal.SIGINT, signal.SIGTERM)]
    print(json.dumps({
        "words": words, "environment": dict(os.environ), "leads": os.getpgid(0) == os.getpid(), "title": title,
        "open": sorted(open_ones), "input": os.readlink("/proc/self/fd/0"),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "asked": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "shown": open("/proc/self/environ", "rb").read().replace(b"\\0", b"").decode(),
    }))
    return 7
signal.signal(signal.SIGTERM, lambda *_: None)
print(json.dumps(end(begin(main))))
""",
        ONE="0",
        SECRET="word",
    )
    assert code == 7
    first, second, told = output.splitlines()
    assert (first, second) == ("out", "err")
    found = json.loads(told)
    assert found == {
        "words": ["word"],
        "environment": {"ONE": "1"},
        "leads": True,
        "title": "python\0-m\0part",
        "open": ["0", "1", "2"],
        "input": "/dev/null",
        "blocked": [],
        "asked": True,
        "shown": "ONE=0",
    }


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        ("lambda words: sys.exit(3)", 3, ""),
        ("lambda words: 1 / 0", 1, "ZeroDivisionError"),
        ("lambda words: os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)
def test_an_end_of_any_kind_is_seen(main: str, code: int, said: str) -> None:
    found, output = run(f"print(json.dumps(end(begin({main}))))")
    assert found == code
    assert said in output


def test_what_threads_have_in_hand_is_finished_at_the_end() -> None:
    code, output = run("""
from concurrent.futures import ThreadPoolExecutor
def main(words):
    pool, begun = ThreadPoolExecutor(1), threading.Event()
    pool.submit(lambda: (begun.set(), time.sleep(0.2), print("finished", flush=True)))
    begun.wait()
    return 0
print(json.dumps(end(begin(main))))
""")
    assert (code, output) == (0, "finished\n")


@pytest.mark.parametrize(
    "obstacle",
    [
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "load = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "load = lambda: __import__('there_is_no_such_module')",
    ],
)
def test_nothing_is_forked_where_there_are_threads_or_the_code_is_missing(obstacle: str) -> None:
    assert run(f"{obstacle}\nprint(json.dumps(begin(lambda words: 0, load)))") is None


def test_a_fork_that_the_system_refuses_leaves_signals_and_descriptors_as_they_were() -> None:
    forked, blocked, more = run("""
def refuse():
    raise BlockingIOError("no process to be had")
os.fork, before = refuse, len(os.listdir("/dev/fd"))
forked = begin(lambda words: 0)
blocked = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
print(json.dumps([forked, blocked, len(os.listdir("/dev/fd")) - before]))
""")
    assert (forked, blocked, more) == (None, [], 0)


def test_a_module_of_the_working_directory_is_not_loaded_by_chance(tmp_path: Path) -> None:
    (tmp_path / "planted_module.py").write_text("raise SystemExit('planted')")
    script = "print(json.dumps([begin(lambda words: 0, lambda: __import__('planted_module')), sys.path[0]]))"
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout) == [None, ""], done.stderr


def test_a_part_ends_with_a_killed_parent() -> None:
    script = BEGINNING + "print(begin(lambda words: time.sleep(60)).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the part outlives its parent")
