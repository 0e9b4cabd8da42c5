"""Whatever happens, in whatever order: every client gets one end and one `[DONE]`, and nothing goes back.

The trials themselves are tried too: hive with a mistake in it must not get through. `scripts/soak-stream` runs the same
for as long as one likes.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from hive.downloads import scripts
from hive.streams import fanout, sse, stream, topic
from tests.soak import trial, world
from tests.soak.soak import Report, soak

#: What CI affords; HIVE_TEST_TRIALS raises it.
TRIALS = int(os.environ.get("HIVE_TEST_TRIALS", "600"))
PROCESS_TRIALS = TRIALS // 4
#: A mistake is looked for until it is found, so this costs time only when one escapes.
MUTANT_TRIALS = 2000
#: Seconds until an end counts as missed there: few, for hive looks again by itself after some and mends what it lost.
MUTANT_END_WITHIN_S = 3.0


#: What each run must have tried.
TROUBLES = ("kills", "command_kills", "restarts", "wipes", "freezes", "retries", "zombies", "stopped")


def untried(report: Report) -> list[str]:
    """Troubles that did not happen in a run."""
    return [name for name in TROUBLES if not report.counts.get(name)]


def test_every_client_gets_one_end_and_nothing_goes_back() -> None:
    report = soak(TRIALS, secrets.randbits(32))
    assert not report.violations, "\n".join([str(report), *report.violations])
    assert (report.trials, untried(report)) == (TRIALS, []), report
    assert report.counts["joins"] > TRIALS


def test_nor_with_two_server_processes() -> None:
    report = soak(PROCESS_TRIALS, secrets.randbits(32), processes=True)
    assert not report.violations, "\n".join([str(report), *report.violations])
    assert (report.trials, untried(report)) == (PROCESS_TRIALS, []), report
    assert report.counts["joins"] > PROCESS_TRIALS


def _accept_anything(right: Any) -> Any:
    def accept(self: topic.Topic, message: Any) -> bool:
        self.version = topic.NOTHING
        accepted: bool = right(self, message)
        return accepted

    return accept


def _go_on_after_the_end(right: Any) -> Any:
    def accept(self: topic.Topic, message: Any) -> bool:
        self.terminal = False
        accepted: bool = right(self, message)
        return accepted

    return accept


def _never_look_again(right: Any) -> Any:
    return lambda self: None


def _forget_who_saw_the_end(right: Any) -> Any:
    async def call(self: Any, download_id: str, asked: sse.StreamRequest, *rest: Any) -> bool:
        answered: bool = await right(self, download_id, asked._replace(last_event_id=None), *rest)
        return answered

    return call


def _script(right: str, wrong: str) -> Callable[[str], str]:
    def change(source: str) -> str:
        assert source.count(right) == 1
        return source.replace(right, wrong)

    return change


MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "what arrives last counts, however old it is": (topic.Topic, "accept", _accept_anything),
    "an end is no reason to stop listening": (topic.Topic, "accept", _go_on_after_the_end),
    "nothing is read again when the subscription comes back": (fanout.Fanout, "_on_subscribed", _never_look_again),
    "a client that was slow gets nothing more": (stream.Stream, "on_writable", _never_look_again),
    "no [DONE] after the end": (sse, "DONE", lambda right: b""),
    "[DONE] twice": (sse, "DONE", lambda right: right * 2),
    "one that has seen the end gets it again": (stream.StreamEndpoint, "__call__", _forget_who_saw_the_end),
    "a zombie is obeyed": (
        scripts,
        "PUBLISH",
        _script("if r[1] ~= 'running' or r[2] ~= fence then", "if r[1] ~= 'running' then"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_hive_with_a_mistake_in_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, attribute, change = MUTANTS[name]
    monkeypatch.setattr(place, attribute, change(getattr(place, attribute)))
    monkeypatch.setattr(trial, "END_WITHIN_S", MUTANT_END_WITHIN_S)
    report = soak(MUTANT_TRIALS, secrets.randbits(32), most_violations=1)
    assert report.violations, f"{name}: not caught, {report}"


@pytest.mark.slow
def test_an_end_that_is_written_and_not_told_is_caught_in_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lost subscription makes hive read again, which hides what was not told: so none is lost here."""
    untold = _script("say(record, channel, fence, seq, '1', event)", "say(record, 'x', fence, seq, '1', event)")
    monkeypatch.setattr(world, "WEIGHTS", {"freeze": 1})
    assert not soak(TRIALS // 4, 1).violations
    monkeypatch.setattr(trial, "END_WITHIN_S", MUTANT_END_WITHIN_S)
    monkeypatch.setattr(scripts, "FINISH", untold(scripts.FINISH))
    assert soak(MUTANT_TRIALS, 1, most_violations=1).violations
