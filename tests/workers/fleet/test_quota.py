"""The bytes that an owner may receive on a day, asked for by downloads that a worker holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.record import AttemptBytes, Claim
from hive.errors import QuotaExceeded
from hive.redis.client import RedisClient
from hive.wire import keys
from tests.support.content import MIB
from tests.support.downloads import claim, download_context, downloading, new
from workers.fleet.quota import QuotaShare
from workers.transfer import Control

MOST = 100 * MIB


class Held:
    """A download that a worker holds, and the bytes that it says it has received."""

    def __init__(self, downloads: DownloadContext, owner: str, name: str, most: int = MOST) -> None:
        self.downloads = downloads
        self.claim: Claim = claim(downloads, downloads.tracker.create(new(f"{owner}-{name}", owner=owner))[0])
        self.received = 0
        self.seq = 1
        self.control = Control()
        self.share = QuotaShare(downloads.claims, self.claim, most, self.control, lambda: self.received)

    def receive(self, n_bytes: int) -> None:
        self.received += n_bytes
        self.seq += 1
        event = downloading(self.received, 1000 * MIB)
        self.downloads.claims.publish(self.claim, self.seq, event, AttemptBytes(self.received))

    def take(self, *sizes: int | None) -> None:
        self.share.take([(Path(f"/nowhere/{n}"), size) for n, size in enumerate(sizes)])


def test_what_running_downloads_have_still_to_receive_counts(store: RedisClient) -> None:
    downloads = download_context(store)
    first, second, third = (Held(downloads, "alice", name) for name in "abc")
    first.take(60 * MIB)
    with pytest.raises(QuotaExceeded) as caught:
        second.take(30 * MIB, 20 * MIB)
    assert (caught.value.details["needed"], caught.value.details["available"]) == (50 * MIB, 40 * MIB)
    assert 0 < caught.value.details["retry_after_s"] <= 86_400
    first.receive(60 * MIB)
    second.take(40 * MIB)
    Held(downloads, "bob", "a").take(100 * MIB)
    third.share.check()
    second.receive(40 * MIB)
    with pytest.raises(QuotaExceeded):
        third.share.check()
    Held(downloads, "", "anybody's").take(1000 * MIB)
    Held(downloads, "alice", "no limit", most=0).take(1000 * MIB)


def test_what_a_worker_gave_up_is_free_for_others(store: RedisClient) -> None:
    downloads = download_context(store)
    first, second = (Held(downloads, "alice", name) for name in "ab")
    first.take(100 * MIB)
    first.receive(10 * MIB)
    record = downloads.tracker.read(first.claim.id)
    assert record is not None
    assert downloads.claims.release(record, downloading(), counts=False, to="paused") is not None
    second.take(90 * MIB)
    assert store.hget(keys.record(second.claim.id), "expected") == str(90 * MIB).encode()


def test_what_comes_without_a_length_is_asked_for_in_steps(store: RedisClient) -> None:
    downloads = download_context(store)
    endless, other = (Held(downloads, "alice", name) for name in "ab")
    endless.take(None)
    with pytest.raises(QuotaExceeded):
        other.take(40 * MIB)
    endless.received = MIB  # and not told yet
    endless.share.grow(MIB, None)
    endless.receive(70 * MIB)
    endless.share.grow(71 * MIB, None)
    assert not endless.control.cancelled
    endless.receive(29 * MIB)
    endless.share.grow(100 * MIB, None)
    with pytest.raises(QuotaExceeded):
        endless.control.check()


def test_a_size_that_is_told_late_is_compared_then(store: RedisClient) -> None:
    downloads = download_context(store)
    small, large = (Held(downloads, "alice", name) for name in "ab")
    small.take(None)
    small.received = MIB
    small.share.grow(MIB, 80 * MIB)
    assert not small.control.cancelled
    large.take(None)
    large.share.grow(0, 21 * MIB)
    with pytest.raises(QuotaExceeded, match="22020096 bytes more"):
        large.control.check()
