"""`hive pull` where no server runs: the whole of hive, for the time of one download, from a stand-in of the Hub."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.processes.instance_lock import holder_of
from tests.hub import HubServer, SyntheticFile
from tests.support.cli import COMMAND_TIMEOUT_S
from tests.support.private_pull import (
    ALONE,
    CONTENT,
    EXPECTED,
    SIZE_BYTES,
    digest,
    pull,
    start_pull,
    wait_until_under_way,
)
from tests.support.pty import Terminal
from tests.support.waiting import wait_for

OTHER_BYTES = 5_000_000


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.create("org/name", {"model-Q4_K_M.gguf": CONTENT, "README.md": b"hello"})
        hub.create("org/other", {"config.json": b"{}", "model.safetensors": SyntheticFile(OTHER_BYTES, seed=8)})
        yield hub


@pytest.fixture
def alone(env: dict[str, str], hub: HubServer) -> dict[str, str]:
    """An environment in which nothing runs yet and the Hub is ours."""
    return env | {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}


def is_private(home: Path) -> bool:
    """Whether a private hive serves this home."""
    holder = holder_of(home)
    return holder is not None and holder.address is not None and holder.private


def test_a_pull_alone_brings_the_model_and_leaves_nothing_running(alone: dict[str, str], home: Path) -> None:
    result = pull(alone, "org/name")
    assert result.code == 0, result.err
    assert digest(result.out) == EXPECTED
    assert result.out.strip().startswith(alone["HIVE_STORE"])
    assert "running one for this download" in result.err
    assert "verified" in result.err
    assert holder_of(home) is None
    again = pull(alone, "-q", "org/name")
    assert (again.code, again.out, again.err) == (0, result.out, "")


def test_an_interrupted_pull_goes_on_from_where_it_was(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 1_000_000
    with start_pull(alone, "org/name") as process:
        wait_until_under_way(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert "Stopped. What arrived is kept: `hive pull hf:org/name` goes on from there." in err
    assert "Traceback" not in err
    assert holder_of(home) is None
    first = hub.bytes_sent("*.gguf")
    hub.limit_rate_bytes_per_s = None
    result = pull(alone, "org/name")
    assert result.code == 0, result.err
    assert digest(result.out) == EXPECTED
    assert 0 < first < SIZE_BYTES
    assert hub.bytes_sent("*.gguf") - first < SIZE_BYTES


def test_a_pull_goes_on_alone_when_the_one_it_joined_ends(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 1_000_000
    with start_pull(alone, "org/name") as first:
        wait_for(lambda: is_private(home), "no private hive")
        with start_pull(alone, "org/other") as second:
            wait_until_under_way(first)
            first.send_signal(signal.SIGINT)
            assert first.communicate(timeout=COMMAND_TIMEOUT_S)[0] == ""
            hub.limit_rate_bytes_per_s = None
            out, err = second.communicate(timeout=COMMAND_TIMEOUT_S)
            assert second.returncode == 0, err
    assert (Path(out.strip()) / "model.safetensors").stat().st_size == OTHER_BYTES
    assert holder_of(home) is None


def test_pulls_that_begin_at_once_share_one_hive(alone: dict[str, str], home: Path) -> None:
    both = [start_pull(alone, "-q", "org/other") for _ in range(3)]
    paths = set()
    for process in both:
        with process:
            out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode == 0, err
        paths.add(out)
    assert len(paths) == 1
    assert holder_of(home) is None


def test_a_failed_pull_alone_ends_with_code_1(alone: dict[str, str], home: Path) -> None:
    result = pull(alone, "org/no-such-model")
    assert (result.code, result.out) == (1, "")
    assert "[MODEL_NOT_FOUND]" in result.err.splitlines()[-1]
    assert holder_of(home) is None


def test_detach_needs_a_server_that_stays(alone: dict[str, str]) -> None:
    result = pull(alone, "--detach", "org/name")
    assert (result.code, result.out) == (2, "")
    assert "hive up" in result.err


def test_a_stack_that_does_not_start_says_why(alone: dict[str, str], home: Path) -> None:
    (home / "redis" / "appendonlydir").mkdir(parents=True)
    (home / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    result = pull(alone, "org/name")
    assert (result.code, result.out) == (1, "")
    assert "could not start" in result.err
    assert str(home / "private.log") in result.err
    assert "Traceback" not in result.err


def test_ctrl_c_on_a_terminal_stops_the_stack_too(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 500_000
    with Terminal([*ALONE, "pull", "org/name"], alone) as terminal:
        terminal.wait_for_text("kB/s")
        terminal.write(b"\x03")
        assert terminal.wait(COMMAND_TIMEOUT_S) == 130
    assert "goes on from there" in terminal.text
    assert holder_of(home) is None


def test_a_pull_ends_its_stack_although_it_is_killed(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 500_000
    with start_pull(alone, "org/name") as process:
        wait_until_under_way(process)
        process.kill()
    wait_for(lambda: holder_of(home) is None, "the stack outlives the pull")
