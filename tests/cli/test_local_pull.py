"""`hive pull` where no server runs: the download in the command itself, from a stand-in of the Hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hive.downloads.local import LocalDownloads
from hive.processes.instance_lock import holder_of
from hive.settings import Settings
from hive.wire.refs import parse_ref
from hive.wire.spec import DownloadSpec
from tests.hub import HubServer, SyntheticFile, faults
from tests.hub.content import read_all
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Result
from tests.support.oci_registry import OciRegistry
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
from tests.support.store import WHOLE, put
from tests.support.waiting import wait_for

OTHER_BYTES = 5_000_000
#: What each connection gets where a download has to last: some five seconds for the model.
SLOW = 1_000_000


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


def run(env: dict[str, str], *args: str, stdin: str = "") -> Result:
    done = subprocess.run(
        [*ALONE, *args], env=env, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def stop_a_pull(env: dict[str, str], hub: HubServer, *args: str) -> str:
    """Begin a pull, and interrupt it when bytes have come; gives what it said."""
    hub.limit_rate_bytes_per_s = SLOW
    with start_pull(env, *(args or ("org/name",))) as process:
        wait_until_under_way(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    hub.limit_rate_bytes_per_s = None
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    return err


def listed(env: dict[str, str]) -> list[str]:
    """The references of the downloads that stand in the intent log."""
    return [entry.intent.ref for entry in LocalDownloads(Settings.from_env(env)).list()]


def test_a_pull_alone_brings_the_model_and_leaves_nothing_behind(alone: dict[str, str], home: Path) -> None:
    result = pull(alone, "org/name")
    assert result.code == 0, result.err
    assert digest(result.out) == EXPECTED
    assert result.out.strip().startswith(alone["HIVE_STORE"])
    assert "verified" in result.err
    assert listed(alone) == []
    hive = Path(alone["HIVE_STORE"]) / "hive"
    assert [path for name in ("partial", "locks") for path in (hive / name).iterdir()] == []
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_variables_that_huggingface_hub_cannot_read_and_hive_does_not_are_no_reason_to_fail(
    alone: dict[str, str],
) -> None:
    done = pull(alone | {"HF_HUB_ETAG_TIMEOUT": '"10"', "HF_HUB_DOWNLOAD_TIMEOUT": "2.5"}, "-q", "org/name")
    assert done.code == 0, done.err


def test_a_pull_alone_checks_what_it_is_told_as_a_server_does(alone: dict[str, str]) -> None:
    for args in (("https://host.example/f", "--name", "../x"), ("org/name", "--sha256", "a" * 64)):
        result = pull(alone, *args)
        assert (result.code, result.out) == (1, "")
        assert "[INVALID_REQUEST]" in result.err
    assert not (Path(alone["HIVE_STORE"]) / "hive" / "files").exists()


def test_a_model_on_disk_is_answered_from_the_disk(alone: dict[str, str], hub: HubServer) -> None:
    first = pull(alone, "-q", "org/other")
    before = len(hub.log.hits())
    again = pull(alone | {"HF_HUB_OFFLINE": "1"}, "org/other")
    assert (again.code, again.out) == (0, first.out)
    assert again.err == "org/other: already on disk, 5.0 MB\n"
    quiet = pull(alone, "-q", "org/other")
    assert (quiet.code, quiet.out, quiet.err) == (0, first.out, "")
    assert len(hub.log.hits()) == before


def test_what_is_on_disk_needs_neither_workers_nor_a_client(alone: dict[str, str]) -> None:
    pull(alone, "-q", "org/other")
    heavy = ("httpx2", "huggingface_hub", "redis", "rq", "starlette", "cryptography", "requests", "rich")
    code = (
        "import sys; import hive.cli.server as s; s.DEFAULT_ADDRESS = '127.0.0.1:1'; from hive.cli import run;"
        f"assert run(['pull', '-q', 'org/other']) == 0; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([ALONE[0], "-c", code], env=alone, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_a_stopped_pull_goes_on_from_where_it_was(alone: dict[str, str], hub: HubServer) -> None:
    err = stop_a_pull(alone, hub)
    assert "Stopped." in err
    assert "hint: hive pull org/name" in err.splitlines()
    assert listed(alone) == ["hf:org/name"]
    [entry] = LocalDownloads(Settings.from_env(alone)).list()
    assert 0 < entry.bytes_done < SIZE_BYTES == entry.bytes_total
    events = [json.loads(line) for line in pull(alone, "--json", "org/name").out.splitlines()]
    assert min(event["bytes_downloaded"] for event in events[:-1]) >= entry.bytes_done
    assert events[-1].get("bytes_refetched", 0) == 0
    assert digest(events[-1]["local_path"]) == EXPECTED
    assert listed(alone) == []


def test_a_stopped_pull_is_not_gone_on_with_by_the_next_pull_of_something_else(
    alone: dict[str, str], hub: HubServer
) -> None:
    stop_a_pull(alone, hub)
    before = hub.bytes_sent("*.gguf")
    assert pull(alone, "org/other").code == 0
    assert hub.bytes_sent("*.gguf") == before
    assert listed(alone) == ["hf:org/name"]


def test_a_killed_pull_leaves_what_came_for_the_next(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = SLOW
    with start_pull(alone, "org/name") as process:
        wait_until_under_way(process)
        process.kill()
    hub.limit_rate_bytes_per_s = None
    [entry] = LocalDownloads(Settings.from_env(alone)).list()
    assert entry.pid is None
    assert entry.intent.paused
    result = pull(alone, "org/name")
    assert result.code == 0, result.err
    assert digest(result.out) == EXPECTED
    assert listed(alone) == []


def test_pulls_of_different_models_run_side_by_side(alone: dict[str, str], hub: HubServer) -> None:
    hub.create("org/big", {"big-Q4_K_M.gguf": SyntheticFile(400_000_000, seed=3, head=b"GGUF")})
    hub.faults.add(faults.trickle(100_000), "*big*")  # minutes, however long the other takes on a busy machine
    with start_pull(alone, "org/big") as first:
        wait_until_under_way(first)
        result = pull(alone, "org/other")
        assert result.code == 0, result.err
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=COMMAND_TIMEOUT_S)


def test_pulls_of_one_model_at_once_fetch_it_once(alone: dict[str, str], hub: HubServer) -> None:
    pulls = [start_pull(alone, "-q", "org/name") for _ in range(3)]
    paths = set()
    for process in pulls:
        with process:
            out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode == 0, err
        paths.add(out)
    assert len(paths) == 1
    assert digest(paths.pop()) == EXPECTED
    assert hub.bytes_sent("*.gguf") < 2 * SIZE_BYTES


def test_a_pull_takes_over_from_the_one_it_followed(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = SLOW
    with start_pull(alone, "org/name") as first:
        wait_until_under_way(first)
        with start_pull(alone, "org/name") as second:
            assert second.stderr is not None
            assert "another hive pull fetches it" in second.stderr.readline()
            first.send_signal(signal.SIGINT)
            first.communicate(timeout=COMMAND_TIMEOUT_S)
            hub.limit_rate_bytes_per_s = None
            out, err = second.communicate(timeout=COMMAND_TIMEOUT_S)
    assert second.returncode == 0, err
    assert digest(out) == EXPECTED


def test_a_failed_pull_says_why_and_leaves_nothing(alone: dict[str, str]) -> None:
    result = pull(alone, "org/no-such-model")
    assert (result.code, result.out) == (1, "")
    assert "[MODEL_NOT_FOUND]" in result.err
    assert listed(alone) == []


def test_several_models_come_in_their_order_and_one_that_fails_keeps_no_other(alone: dict[str, str]) -> None:
    result = pull(alone, "-q", "org/other", "org/none", "org/name")
    assert result.code == 1
    other, name = result.out.split()
    assert "models--org--other" in other
    assert digest(name) == EXPECTED
    assert result.err.count("error:") == 1


def test_models_are_read_from_a_list(alone: dict[str, str], tmp_path: Path) -> None:
    text = "# mine\norg/other  # small\n\nhf:org/other\norg/name\n"
    (tmp_path / "list").write_text(text)
    from_file = pull(alone, "-q", "-f", str(tmp_path / "list"))
    assert (from_file.code, len(from_file.out.split())) == (0, 3), from_file.err
    assert run(alone, "pull", "-q", "-f", "-", stdin=text).out == from_file.out
    assert pull(alone, "-f", str(tmp_path / "none")).code == 2


def test_a_pull_of_nothing_is_wrong_usage(alone: dict[str, str]) -> None:
    assert pull(alone).code == 2


def test_detach_needs_a_server_that_stays(alone: dict[str, str]) -> None:
    result = pull(alone, "--detach", "org/name")
    assert (result.code, result.out) == (2, "")
    assert "hint: hive up" in result.err


def test_a_redis_of_the_environment_is_not_touched(alone: dict[str, str]) -> None:
    result = pull(alone | {"REDIS_URL": "redis://127.0.0.1:1", "HIVE_REDIS_URL": "redis://127.0.0.1:1"}, "org/other")
    assert result.code == 0, result.err


def test_json_gives_one_event_a_line(alone: dict[str, str]) -> None:
    result = pull(alone, "--json", "org/other")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["stage"] for event in events][-1] == "complete"
    assert {event["stage"] for event in events} == {"downloading", "complete"}
    assert result.err == ""


def test_a_reader_that_goes_ends_the_pull_in_order(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = SLOW
    with start_pull(alone, "--json", "org/name") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(COMMAND_TIMEOUT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert listed(alone) == ["hf:org/name"]


def test_ctrl_c_on_a_terminal_stops_the_pull(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 500_000
    with Terminal([*ALONE, "pull", "org/name"], alone) as terminal:
        terminal.wait_for_text("MB/s")
        terminal.write(b"\x03")
        assert terminal.wait(COMMAND_TIMEOUT_S) == 130
    assert "hive pull org/name" in terminal.text
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def test_the_cursor_is_there_again_when_a_pull_is_ended_by_force(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = 500_000
    with Terminal([*ALONE, "pull", "org/name"], alone) as terminal:
        terminal.wait_for_text("MB/s")
        terminal.write(b"\x1c")
        assert terminal.wait(COMMAND_TIMEOUT_S) == -signal.SIGQUIT
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def test_a_pull_under_nohup_goes_on_when_the_terminal_closes(alone: dict[str, str], hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = SLOW
    with Child(
        ["nohup", *ALONE, "pull", "org/name"], env=alone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until_under_way(process)
        process.send_signal(signal.SIGHUP)
        hub.limit_rate_bytes_per_s = None
        out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert process.returncode == 0, err
    assert digest(out) == EXPECTED


def test_a_store_that_cannot_be_written_is_named(alone: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    result = pull(alone | {"HIVE_STORE": str(tmp_path / "file")}, "org/other")
    assert result.code == 1
    assert str(tmp_path / "file") in result.err
    assert "Traceback" not in result.err


def test_a_home_that_is_not_ours_keeps_nobody_from_pulling(alone: dict[str, str]) -> None:
    result = pull(alone | {"HIVE_HOME": "/proc/hive"}, "org/other")
    assert result.code == 0, result.err


def test_the_limit_of_the_bandwidth_is_the_machines(alone: dict[str, str], hub: HubServer) -> None:
    """Two pulls of 5 MB under 5 MB/s together take two seconds, not one."""
    import time

    hub.create("org/more", {"model.safetensors": SyntheticFile(OTHER_BYTES, seed=9)})
    began_s = time.monotonic()
    limited = alone | {"HIVE_MAX_BYTES_PER_SECOND": str(OTHER_BYTES)}
    pulls = [start_pull(limited, "-q", name) for name in ("org/other", "org/more")]
    for process in pulls:
        with process:
            assert process.communicate(timeout=COMMAND_TIMEOUT_S)[1] == ""
    assert time.monotonic() - began_s > 1.7


def test_a_request_is_in_one_hand_at_a_time(settings: Settings) -> None:
    spec = DownloadSpec(ref=parse_ref("org/name"))
    downloads = LocalDownloads(settings)
    run = downloads.begin(spec)
    assert run is not None
    assert LocalDownloads(settings).begin(spec) is None
    entry = downloads.running(spec)
    assert entry is not None
    assert (entry.intent.id, entry.pid) == (run.id, os.getpid())
    run.set_aside()
    assert downloads.running(spec) is None
    again = downloads.begin(spec)
    assert again is not None
    assert again.id == run.id
    again.end()
    assert downloads.list() == []


def test_no_server_is_started(alone: dict[str, str], home: Path, hub: HubServer) -> None:
    hub.limit_rate_bytes_per_s = SLOW
    with start_pull(alone, "org/name") as process:
        wait_until_under_way(process)
        assert holder_of(home) is None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert children == ""
    wait_for(lambda: listed(alone) == ["hf:org/name"], "nothing is left")


def test_a_pull_alone_of_what_an_older_tool_fetched_is_answered_while_the_hub_is_away(alone: dict[str, str]) -> None:
    snapshot = put(Settings.from_env(alone), "org/older", WHOLE)
    result = pull(alone | {"HF_ENDPOINT": "http://127.0.0.1:9"}, "org/older")
    assert (result.code, result.out) == (0, f"{snapshot}\n"), result.err
    assert "note: Answered from the disk" in result.err


def test_a_pull_alone_brings_a_file_of_this_machine_whose_name_need_not_be_utf8(
    alone: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    file.write_bytes(b"GGUF" + bytes(1000))
    result = pull(alone, f"file://{file}")
    assert result.code == 0, result.err
    assert Path(result.out.strip()).read_bytes() == file.read_bytes()
    refused = run(alone, "export", "-o", str(tmp_path / "x.tar"), f"file://{tmp_path}/caf%E9.gguf")
    assert (refused.code, "Copy the file" in refused.err) == (1, True), refused.err


def test_a_model_of_a_registry_is_pulled_listed_verified_and_removed(alone: dict[str, str], hub: HubServer) -> None:
    with OciRegistry(hub) as registry:
        registry.tokens = True
        layers = [registry.layer(read_all(CONTENT), title="m-Q4_K_M.gguf"), registry.layer(b"hello", title="README.md")]
        registry.put("org/model", "v1", {"layers": layers})
        hosts = f"{registry.host},{hub.endpoint.partition('://')[2]}"
        env = alone | {"HIVE_ALLOW_HOSTS": hosts, "HF_TOKEN": "hf_secret"}
        ref = f"oci://{registry.host}/org/model:v1"
        refused = pull(alone, ref)
        assert (refused.code, "[UNSAFE_URL]" in refused.err) == (1, True)
        first = pull(env, "-q", ref)
        assert (first.code, digest(first.out)) == (0, EXPECTED), first.err
        assert all("hf_secret" not in (authorization or "") for _, authorization in registry.requests)
        asked = len(registry.requests)
        assert pull(env, "-q", ref).out == first.out
        assert len(registry.requests) == asked
    name = f"oci.{registry.host.replace(':', '.')}/org.model@v1:Q4_K_M"
    assert run(alone, "ls", "-q").out.split() == [name]
    assert run(alone, "catalog", "verify", name).code == 0
    assert run(alone, "rm", "--yes", ref).code == 0
    assert run(alone, "ls", "-q").out == ""
