"""The intent log believes only what this hive has written: a file that somebody planted in the store is nobody's."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

import msgspec
import pytest

from hive.downloads.context import DownloadContext
from hive.downloads.intents import SIGNED_MARK, Attempt, Intent, IntentLog
from hive.downloads.restore import Restore
from hive.settings import Settings
from tests.support.intents import an_intent, folder
from workers.download import is_plain_url


@pytest.fixture
def intents(settings: Settings) -> IntentLog:
    return IntentLog(settings)


def plant(settings: Settings, intent: Intent) -> Path:
    """What a program with access to the store writes, as the version before wrote it."""
    path = folder(settings) / f"{intent.id}.json"
    path.write_bytes(msgspec.json.encode(intent))
    return path


def look(settings: Settings, redis_url: str) -> None:
    made = Restore(settings, redis_url, IntentLog(settings))
    made.look(None)
    made.stop()


def test_files_are_for_their_owner_alone(settings: Settings, intents: IntentLog) -> None:
    intent = an_intent()
    intents.write(intent)
    intents.write_attempt(intent.id, Attempt(attempt=1, fence=1))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder(settings).iterdir()}
    assert modes == {0o600}


def test_the_version_before_reads_what_this_one_writes(settings: Settings, intents: IntentLog) -> None:
    intent = an_intent()
    intents.write(intent)
    data = (folder(settings) / f"{intent.id}.json").read_bytes()
    assert msgspec.json.decode(data, type=Intent) == intent


def test_what_the_version_before_left_is_taken_up_once(
    settings: Settings, intents: IntentLog, redis_url: str, downloads: DownloadContext
) -> None:
    intents.write(an_intent())
    left = an_intent(ref="hf:org/left")
    plant(settings, left)
    look(settings, redis_url)
    assert downloads.tracker.read(left.id) is not None
    assert IntentLog(settings).read(left.id) == left
    assert [path.name[: len(SIGNED_MARK)] for path in settings.home_dir.glob(f"{SIGNED_MARK}*")] == [SIGNED_MARK]


def test_what_is_planted_later_is_set_aside_and_fetched_by_nobody(
    settings: Settings, intents: IntentLog, redis_url: str, downloads: DownloadContext
) -> None:
    intents.write(an_intent())
    look(settings, redis_url)
    planted = an_intent(ref="hf:org/planted")
    path = plant(settings, planted)
    look(settings, redis_url)
    assert downloads.tracker.read(planted.id) is None
    assert path.with_name(path.name + ".bad").exists()


@pytest.mark.parametrize("change", ["another request", "another name", "another key"])
def test_a_signature_is_good_for_one_file_of_one_hive(
    settings: Settings, intents: IntentLog, redis_url: str, tmp_path: Path, change: str
) -> None:
    intent = an_intent()
    intents.write(intent)
    look(settings, redis_url)
    path = folder(settings) / f"{intent.id}.json"
    data, download_id = path.read_bytes(), intent.id
    if change == "another request":
        path.write_bytes(data.replace(b"hf:org/model", b"hf:org/other"))
    elif change == "another name":
        download_id = str(uuid.uuid4())
        (folder(settings) / f"{download_id}.json").write_bytes(data.replace(intent.id.encode(), download_id.encode()))
    else:
        (tmp_path / "home" / "secret.key").write_bytes(b"A" * 43 + b"=")
        other = IntentLog(settings)
        other._realm = intents._realm
        assert other.read(download_id) is None
        return
    assert IntentLog(settings).read(download_id) is None


def test_a_worker_believes_nothing_unsigned_and_leaves_it_where_it_is(settings: Settings, intents: IntentLog) -> None:
    intents.write(an_intent())
    planted = an_intent()
    path = plant(settings, planted)
    assert IntentLog(settings).read(planted.id) is None
    assert path.exists(), "a server of this version has not looked yet"


@pytest.mark.parametrize(
    ("ref", "plain"),
    [
        ("hf:org/model", False),
        ("org/model", False),
        ("https://huggingface.co/org/model", False),
        ("http://127.0.0.1/x", True),
        ("HTTP://127.0.0.1/x", True),
        ("hTTps://10.0.0.1/x", True),
        (" http://127.0.0.1/x", True),
        ("\thttp://127.0.0.1/x", True),
        ("", True),
    ],
)
def test_the_guard_goes_by_what_a_reference_means(ref: str, plain: bool) -> None:
    assert is_plain_url(ref) == plain
