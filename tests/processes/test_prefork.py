"""Processes of one kind end when their parent is told to, whatever holds them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from hive.processes.prefork import KILLED_S
from tests.support.child import Child
from tests.support.waiting import AT_ONCE_S

#: Seconds that they may take.
STOP_S = 1.0

#: A parent of one that ends when it is told to, and of one that does not hear.
PROGRAM = r"""
import os, signal, sys, threading, time
from hive.processes.prefork import Prefork

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, b"deaf\n")
    time.sleep(600)

def well():
    os.write(1, b"well\n")
    time.sleep(600)

def short():
    os.write(1, b"short\n")
    sys.stdin.read(1)

def refused():
    os.write(1, b"refused\n")
    sys.stdin.read(1)

def astray():
    os.write(1, b"astray\n")
    time.sleep(600)

works = {"deaf": deaf, "well": well, "short": short, "astray": astray, "refused": refused}
if "short" in sys.argv:
    waitpid = os.waitpid

    def wait_and_be_told(*arguments):
        found = waitpid(*arguments)
        if found[0]:
            os.waitpid = waitpid
            os.kill(os.getpid(), signal.SIGTERM)  # its handler runs before this returns
        return found

    os.waitpid = wait_and_be_told
if "refused" in sys.argv:
    fork, refusals = os.fork, [None, BlockingIOError(11, "no room")]

    def fork_or_not():
        if refusals and (refusal := refusals.pop(0)):
            raise refusal
        return fork()

    os.fork = fork_or_not
if "astray" in sys.argv:
    def tell_another_thread():
        sys.stdin.read(1)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    threading.Thread(target=tell_another_thread, daemon=True).start()
Prefork([works[name] for name in sys.argv[2:]], stop_s=float(sys.argv[1])).run()
print("over", flush=True)
"""


def parent(stop_s: float, *works: str) -> Child[str]:
    command = [sys.executable, "-c", PROGRAM, str(stop_s), *works]
    process = Child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert sorted(process.stdout.readline().strip() for _ in works) == sorted(works)
    return process


def test_one_that_ended_is_replaced_also_where_the_system_has_no_room_at_first() -> None:
    with parent(STOP_S, "refused") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("x")
        process.stdin.flush()
        assert process.stdout.readline() == "refused\n", "another one"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("over\n", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_does_not_end_is_killed(number: signal.Signals) -> None:
    with parent(STOP_S, "deaf", "well") as process:
        began_s = time.monotonic()
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert STOP_S <= time.monotonic() - began_s < STOP_S + KILLED_S + AT_ONCE_S
    assert (out, process.returncode) == ("over\n", 0)


def test_those_that_end_are_not_waited_for_longer() -> None:
    with parent(600.0, "well", "well") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=AT_ONCE_S)
    assert (out, process.returncode) == ("over\n", 0)


def test_a_signal_that_comes_as_a_child_has_ended_is_no_failure() -> None:
    """The child was waited for, and still stands on the list of those who are to be told."""
    with parent(60.0, "short", "well") as process:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == "over\n"


def test_a_signal_that_wakes_another_thread_is_heard_too() -> None:
    """As one does that comes in the moment before the parent waits."""
    with parent(600.0, "astray") as process:
        out, _ = process.communicate("x", timeout=AT_ONCE_S)
    assert (out, process.returncode) == ("over\n", 0)
