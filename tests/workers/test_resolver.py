"""What the resolver says of a plan that could not be made."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hive.downloads.resolutions import Question
from hive.wire.jobs import Request
from tests.support.settings import settings_for
from workers.resolver import Resolver


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), "RESOURCES_EXHAUSTED"), (KeyError(), "INTERNAL_ERROR")])
def test_a_plan_that_could_not_be_made_is_told_and_logged_with_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, code: str
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise error

    settings = settings_for(tmp_path, REDIS_URL="redis://127.0.0.1:9/0")
    resolver = Resolver(settings, threading.Event(), threading.BoundedSemaphore())
    monkeypatch.setattr("workers.resolver.Resolver._resolve", breaks)
    assert code.encode() in resolver._plan(Question(id="q", request=Request(ref="hf:org/name")))
    assert [line.exc_info[1] for line in caplog.records if line.exc_info] == [error]
