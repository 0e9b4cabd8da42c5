"""Long operations: one of each kind, also after one that could not begin."""

from __future__ import annotations

import threading

import pytest

from hive.api.operations import Operations
from hive.errors import Conflict

pytestmark = pytest.mark.anyio


async def test_one_that_has_no_thread_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    operations = Operations()
    operation = operations.begin("verification")
    with pytest.raises(Conflict):
        operations.begin("verification")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        await anext(operation.lines(lambda say: None, keepalive_s=1.0))
    operation.close()
    monkeypatch.undo()
    again = operations.begin("verification")
    assert [line async for line in again.lines(lambda say: None, keepalive_s=60.0)] == []
    operations.begin("verification").close()
