"""`hive catalog verify` and `hive gc`, where no server runs and where one does."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from hive.cli import server as finding
from hive.cli.errors import CliError
from hive.cli.gc import seconds
from hive.processes.instance_lock import holder_of
from hive.settings import Settings
from tests.hub import HubServer
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, Result
from tests.support.gc import DIGEST, partial, stray_blob
from tests.support.private_pull import ALONE, EXPECTED, digest, pull
from tests.support.store import COMMIT, OTHER, QUANTS, WHOLE, put, sha256
from tests.support.waiting import wait_for

COUNT = len(WHOLE)


@pytest.fixture
def no_server(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers at the default address, whatever else runs on this machine."""
    monkeypatch.setattr(finding, "DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HIVE_HOST", "127.0.0.1:1")


def spoil(settings: Settings, path: str = "model.safetensors") -> Path:
    """Change a byte of a published file."""
    blob = put(settings, "org/name", WHOLE).joinpath(path).resolve()
    blob.write_bytes(b"Weights")
    return blob


def test_a_sound_store_is_all_right(no_server: None, settings: Settings, hive: Hive) -> None:
    put(settings, "org/name", WHOLE)
    result = hive("catalog", "verify")
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith(f"{COUNT} files, ")
    assert result.err.endswith(": all right\n")


def test_a_wrong_file_is_a_line_and_code_1(no_server: None, settings: Settings, hive: Hive) -> None:
    spoil(settings)
    result = hive("catalog", "verify", "org/name")
    assert result.code == 1
    assert result.out.split()[:3] == ["wrong_digest", f"org/name@{COMMIT[:12]}", "model.safetensors"]
    assert "1 problem." in result.err
    assert "--fetch" in result.err


def test_json_has_every_line(no_server: None, settings: Settings, hive: Hive) -> None:
    spoil(settings)
    result = hive("catalog", "verify", "--json")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert [line["event"] for line in lines][-2:] == ["problem", "end"]
    assert lines[-2]["found"] == sha256(b"Weights")


def test_only_what_is_named_is_read(no_server: None, settings: Settings, hive: Hive) -> None:
    spoil(settings)
    put(settings, "org/q", QUANTS)
    assert hive("catalog", "verify", "org/q:Q8_0", "hf:org/q:Q4_K_M").code == 0
    assert hive("catalog", "verify", "org/q", "org/name").code == 1


@pytest.mark.parametrize("name", ["org/none", "org/name:Q8_0"])
def test_a_model_that_is_not_there_is_code_1(no_server: None, settings: Settings, hive: Hive, name: str) -> None:
    put(settings, "org/name", WHOLE)
    result = hive("catalog", "verify", name)
    assert (result.code, result.out) == (1, "")
    assert "[MODEL_NOT_ON_DISK]" in result.err


def test_names_from_the_disk_cannot_speak_to_the_terminal(no_server: None, settings: Settings, hive: Hive) -> None:
    snapshot = put(settings, "org/name", {"a\x1b[31m.txt": b"a"})
    (snapshot / "a\x1b[31m.txt").resolve().unlink()
    assert "\x1b" not in hive("catalog", "verify").out


@pytest.fixture
def alone(env: dict[str, str], hub: HubServer) -> dict[str, str]:
    return env | {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}


def run(env: dict[str, str], *args: str) -> Result:
    done = subprocess.run(
        [*ALONE, *args], env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_fetch_mends_a_model_without_a_server(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    path = Path(pull(alone, "-q", "org/name").out.strip())
    with path.resolve().open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"spoilt")
    assert run(alone, "catalog", "verify").code == 1
    result = run(alone, "catalog", "verify", "--fetch")
    assert result.code == 0, result.err
    assert "wrong_digest" in result.out
    assert "mended" in result.err
    assert digest(str(path)) == EXPECTED
    assert holder_of(home) is None
    [bad] = (Path(alone["HIVE_STORE"]) / "hive" / "partial").glob("*.bad")
    assert digest(str(bad)) != EXPECTED
    assert run(alone, "catalog", "verify").code == 0


def test_what_cannot_be_fetched_again_is_code_1(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    settings = Settings.from_env(alone)
    spoil(settings)
    result = run(alone, "catalog", "verify", "--fetch")
    assert result.code == 1
    assert "could not be fetched again" in result.err
    assert holder_of(home) is None


def test_ctrl_c_stops_a_verification(alone: dict[str, str]) -> None:
    settings = Settings.from_env(alone)
    snapshot = put(settings, "org/big", {"model.safetensors": b"x"})
    with (snapshot / "model.safetensors").resolve().open("r+b") as file:
        file.truncate(1 << 36)
    command = [*ALONE, "catalog", "verify", "--json"]
    with Child(command, env=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_gc_prints_what_and_how_much(no_server: None, settings: Settings, hive: Hive) -> None:
    put(settings, "org/name", WHOLE)
    blob, part = stray_blob(settings, "org/name", b"stray"), partial(settings, f"{DIGEST}.part", b"x" * 2000)
    would = hive("gc", "--dry-run")
    assert (would.code, would.err) == (0, "Would remove 2 things, 2.0 kB\n")
    assert blob.exists()
    done = hive("gc")
    assert done.out == would.out
    assert [line.split() for line in done.out.splitlines()] == [
        ["partial", "2.0", "kB", f"hive/partial/{part.name}"],
        ["blob", "5", "B", f"hub/models--org--name/blobs/{blob.name}"],
    ]
    assert done.err == "Removed 2 things, 2.0 kB\n"
    assert not blob.exists()
    assert not part.exists()
    assert hive("ls", "-q").out == "org/name\n"


def test_gc_takes_a_shorter_retention_and_prints_json(no_server: None, settings: Settings, hive: Hive) -> None:
    part = partial(settings, f"{DIGEST}.part", seconds=7200)
    for args, removed in (((), 0), (("--older-than", "3h"), 0), (("--older-than", "1h"), 1)):
        end = json.loads(hive("gc", "--json", *args).out.splitlines()[-1])
        assert (end["event"], end["removed"]) == ("end", removed)
    assert not part.exists()


def test_gc_without_a_server_keeps_what_a_stopped_pull_needs(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    """Redis is not there to be asked; the intent log on the disk says it."""
    from tests.support.gc import age
    from tests.support.private_pull import start_pull, wait_until_under_way

    hub.limit_rate_bytes_per_s = 1_000_000
    with start_pull(alone, "org/name") as process:
        wait_until_under_way(process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_TIMEOUT_S)
    wait_for(lambda: holder_of(home) is None, "the private hive goes on")
    partials = Path(alone["HIVE_STORE"]) / "hive" / "partial"
    age(partials, 20 * 86_400)
    before = {path.name for path in partials.iterdir()}
    assert before
    assert run(alone, "gc", "--older-than", "0s").code == 0
    assert {path.name for path in partials.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "found"), [("7d", 604_800), ("12h", 43_200), ("30m", 1800), ("90s", 90), ("90", 90), ("1.5h", 5400)]
)
def test_durations_are_read_as_people_write_them(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "d", "7 years", "-1d", "1e9d", "0x10s"])
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(CliError) as caught:
        seconds(text)
    assert caught.value.exit_code == 2


def test_a_commit_beside_main_is_named_by_its_revision(no_server: None, settings: Settings, hive: Hive) -> None:
    put(settings, "org/name", WHOLE)
    snapshot = put(settings, "org/name", {"a": b"a"}, commit=OTHER, refs=())
    (snapshot / "a").resolve().write_bytes(b"b")
    assert hive("catalog", "verify", "org/name").code == 0
    assert hive("catalog", "verify", f"org/name@{OTHER}").code == 1
