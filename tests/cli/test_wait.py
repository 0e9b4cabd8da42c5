"""`hive wait`: the disk decides, whoever brings the model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import HubServer, SyntheticFile
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Hive
from tests.support.private_pull import ALONE, CONTENT, pull

#: Seconds for which a command waits that is to find nothing.
SHORT_S = "0.2"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.create(
            "org/name",
            {
                "model-Q4_K_M.gguf": CONTENT,
                "model-Q8_0.gguf": SyntheticFile(5000, seed=9, head=b"GGUF"),
                "README.md": b"hello",
            },
        )
        yield hub


@pytest.fixture
def alone(env: dict[str, str], hub: HubServer) -> dict[str, str]:
    return env | {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}


def test_a_model_that_is_there_is_answered_at_once(alone: dict[str, str], hive: Hive) -> None:
    path = pull(alone, "-q", "org/name").out
    result = hive("wait", "org/name")
    assert (result.code, result.out, result.err) == (0, path, "")
    assert Path(path.strip()).is_file()


def test_a_model_that_comes_meanwhile_ends_the_waiting(alone: dict[str, str]) -> None:
    with Child(
        [*ALONE, "wait", "--timeout", "60", "org/name:Q8_0"],
        env=alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("Waiting for org/name:Q8_0 in ")
        brought = pull(alone, "-q", "org/name:Q8_0")
        assert brought.code == 0, brought.err
        out, _ = waiting.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (waiting.returncode, out) == (0, brought.out)


def test_another_variant_is_not_the_one_that_is_waited_for(alone: dict[str, str], hive: Hive) -> None:
    pull(alone, "-q", "org/name:Q8_0")
    result = hive("wait", "--timeout", SHORT_S, "org/name:Q4_K_M")
    assert (result.code, result.out) == (1, "")
    assert "MODEL_NOT_ON_DISK" in result.err
    assert "hint: hive pull org/name:Q4_K_M" in result.err.splitlines()


def test_a_look_without_waiting_says_nothing_but_the_error(env: dict[str, str], hive: Hive) -> None:
    result = hive("wait", "--timeout", "0", "org/name")
    assert result.code == 1
    assert len(result.err.splitlines()) == 2


def test_the_first_process_of_a_container_ends_when_it_is_told_to(env: dict[str, str]) -> None:
    """The kernel gives it no signal that it has no handler for: a pod's end would wait until it is killed."""
    space = ("unshare", "--fork", "--pid", "--kill-child")
    if subprocess.run([*space, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root and a namespace of processes")
    command = [*space, sys.executable, "-m", "hive.cli", "wait", "org/name"]
    with Child(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Waiting for org/name")
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(COMMAND_TIMEOUT_S) == 128 + signal.SIGTERM
