"""A location that is long in coming: a cancel does not wait for it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hive.errors import Cancelled
from tests.hub import HubServer
from tests.support.content import MIB
from tests.support.transfer import QUICK, background, big, digest_of
from tests.support.waiting import AT_ONCE_S, wait_for
from workers.transfer import Location, Source


@pytest.mark.parametrize("small_file_bytes", [0, 16 * MIB], ids=["four connections", "small file"])
def test_a_cancel_does_not_wait_for_who_is_asked_where_the_file_is(
    hub: HubServer, tmp_path: Path, small_file_bytes: int
) -> None:
    content = big()
    url = hub.plain("f", content)
    asked, hangs = threading.Event(), threading.Event()

    def locate() -> Location:
        asked.set()
        hangs.wait(4 * AT_ONCE_S)
        return Location(url)

    limits = replace(QUICK, connections_start=4, small_file_bytes=small_file_bytes)
    try:
        with background(Source(locate, content.size, digest_of(content), "f"), tmp_path / "f", limits) as run:
            wait_for(asked.is_set)
            run.control.cancel()
            assert run.end() < AT_ONCE_S
        assert isinstance(run.error, Cancelled)
        assert hub.hits("/f") == []
    finally:
        hangs.set()
