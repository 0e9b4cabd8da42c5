"""State machines of hypothesis: played with rules in any order, and against scripts that have a mistake in them."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from hive.downloads import scripts

#: Lives of a machine that CI affords; HIVE_TEST_EXAMPLES raises it.
EXAMPLES = int(os.environ.get("HIVE_TEST_EXAMPLES", "60"))


#: Where the lives begin that meet a mistake: with others it takes seconds on one day and many minutes on another.
MISTAKE_SEED = int(os.environ.get("HIVE_TEST_SEED", "5"))


def play(machine: type[RuleBasedStateMachine], lives: int, steps: int, *, first: int | None = None) -> int:
    """How many lives it has had, each of so many steps at most; the same ones in each run where `first` is given, and
    else others. Raises what the machine finds wrong.
    """
    begun = 0

    class Counted(machine):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            nonlocal begun
            begun += 1
            super().__init__()

    if first is not None:
        seed(first)(Counted)
    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            phases=[Phase.generate],
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return begun


def break_script(monkeypatch: pytest.MonkeyPatch, name: str, right: str, wrong: str) -> None:
    """Put a mistake into one of hive.downloads.scripts: `wrong` for `right`, which stands in it once."""
    source = getattr(scripts, name)
    assert source.count(right) == 1
    monkeypatch.setattr(scripts, name, source.replace(right, wrong))
