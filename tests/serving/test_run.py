"""`hive run`, `hive stop` and the models in `hive ps`, as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hive.cli.llm import layers_line
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, command
from tests.support.engine_standin import write_standin
from tests.support.llm import RECITED, Fleet
from tests.support.pty import Terminal
from tests.support.waiting import wait_for

MODEL = "org/model:Q4_K_M"


def environment_of(fleet: Fleet) -> dict[str, str]:
    return {**fleet.env, "PATH": os.environ["PATH"], "HIVE_HOST": fleet.url}


def hive(fleet: Fleet, *args: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hive.cli", *args],
        env=environment_of(fleet),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        input=typed,
    )


def test_run_pulls_loads_answers_and_ends_what_it_started(fleet: Fleet) -> None:
    done = hive(fleet, "run", MODEL, "say", "it")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{RECITED}\n"
    wait_for(lambda: fleet.workers() == [], "what it started has ended")


def test_run_leaves_what_ran_before_and_takes_a_prompt_from_standard_input(fleet: Fleet) -> None:
    fleet.load(f"hf:{MODEL}")
    done = hive(fleet, "run", MODEL, typed="say it")
    assert (done.returncode, done.stdout) == (0, f"{RECITED}\n")
    listed = hive(fleet, "ps")
    assert "IN MEMORY" in listed.stdout
    assert MODEL in listed.stdout
    stopped = hive(fleet, "stop", MODEL)
    assert stopped.returncode == 0, stopped.stderr
    wait_for(lambda: fleet.workers() == [], "it has ended")
    again = hive(fleet, "stop", MODEL)
    assert again.returncode == 1
    assert "hive ps" in again.stderr


def test_a_model_that_does_not_load_is_an_error_with_its_reason(fleet: Fleet) -> None:
    done = hive(fleet, "run", "org/missing", "say it")
    assert done.returncode == 1
    assert "The Hub has no model org/missing" in done.stderr
    assert done.stdout == ""


def begin(fleet: Fleet) -> Child[str]:
    process = Child(
        [sys.executable, "-u", "-m", "hive.cli", "run", MODEL, "say it"],
        env=environment_of(fleet),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == "w0 "
    return process


def test_ctrl_c_cancels_the_answer_and_ends_what_was_started(slow_fleet: Fleet) -> None:
    process = begin(slow_fleet)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 130
    assert "Canceled." in err
    assert "Traceback" not in err
    assert out.endswith("\n")
    wait_for(lambda: slow_fleet.workers() == [], "the worker has ended")


def test_what_a_dying_worker_has_said_is_kept(slow_fleet: Fleet) -> None:
    process = begin(slow_fleet)
    os.kill(slow_fleet.workers()[0]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 1
    assert "broke off" in err
    assert "Traceback" not in err
    assert out.endswith("\n")


def test_at_a_terminal_the_layers_are_drawn_and_questions_are_asked_until_the_end(
    env: dict[str, str], tmp_path: Path
) -> None:
    standin = write_standin(tmp_path / "engine", state_pause_s=0.3, tokens=3)
    fleet = Fleet({**env, "HIVE_LLAMA_SERVER": str(standin)})
    try:
        with Terminal(command("run", MODEL), environment_of(fleet)) as terminal:
            terminal.wait_for_text("is loaded. /bye or Ctrl-D ends.")
            drawn = re.findall(r"loading \S+ \[([#.]+)\] (\d)/3 layers", terminal.text)
            assert {len(bar) for bar, _ in drawn} == {24}
            counts = [int(count) for _, count in drawn]
            assert counts == sorted(counts)
            assert {1, 2} & set(counts), "it was drawn on the way"
            for number in (1, 2):
                terminal.wait_for_text(">>> ", number)
                terminal.write(b"say it\n")
                terminal.wait_for_text("w0 w1 w2", number)
            terminal.write(b"/bye\n")
            assert terminal.wait(COMMAND_TIMEOUT_S) == 0
        wait_for(lambda: fleet.workers() == [], "what it started has ended")
        with Terminal(command("run", MODEL), environment_of(fleet)) as terminal:
            terminal.wait_for_text(">>> ")
            assert terminal.interrupt(COMMAND_TIMEOUT_S) == 130
    finally:
        fleet.stop()
    fleet.check()


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (200, "loading hf:org/a-name-of-some-length:Q4_K_M [##################......] 24/32 layers"),
        (80, "loading hf:org/a-n~f-some-length:Q4_K_M [##################......] 24/32 layers"),
        (40, "loading hf:or~ength:Q4_K_M 24/32 layers"),
        (20, "24/32 layers"),
        (5, "2~rs"),
    ],
)
def test_the_line_of_layers_fits_into_the_terminal(columns: int, line: str) -> None:
    assert layers_line("hf:org/a-name-of-some-length:Q4_K_M", 24, 32, columns) == line
    assert len(line) < columns
