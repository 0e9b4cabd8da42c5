"""The units of deploy/systemd: systemd finds nothing wrong with them, and their commands run as they stand there."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests

from hive.environment import SECRET_FILES
from hive.settings import Settings
from tests.support.processes import HiveProcess
from tests.support.programs import program
from tests.support.waiting import wait_for

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
#: The name that a unit gets, and its file.
INSTANCES = {
    "hive.service": "hive.service",
    "hive-api@8080.service": "hive-api@.service",
    "hive-worker@1.service": "hive-worker@.service",
}
#: Tenths of the "exposure" that systemd-analyze reckons; a service without any of these lines has 96.
MOST_EXPOSED = 20
#: Seconds beyond the drain until a server that stops must be gone (hive/server.py).
GRACE_S = 5
PROGRAM = "/opt/hive/.venv/bin/hive"


def values(unit: str, key: str) -> list[str]:
    """What a unit says for this key, line by line."""
    return re.findall(rf"^{key}=(.*)$", (UNITS / INSTANCES[unit]).read_text(), re.MULTILINE)


def environment_of(unit: str) -> dict[str, str]:
    """The variables that a unit sets, with systemd's specifiers."""
    pairs = [pair for line in values(unit, "Environment") for pair in shlex.split(line)]
    return dict(pair.split("=", 1) for pair in pairs)


def installed(folder: Path) -> list[str]:
    """The units as they lie on a machine, but for the program, which must exist."""
    for name, file in INSTANCES.items():
        (folder / name).write_text((UNITS / file).read_text().replace(PROGRAM, "/bin/true"))
    (folder / "hive.target").write_text((UNITS / "hive.target").read_text())
    return [str(folder / name) for name in INSTANCES]


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    command = [program("systemd-analyze"), "verify", "--man=no", *installed(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", INSTANCES)
def test_a_unit_is_closed_in(unit: str, tmp_path: Path) -> None:
    installed(tmp_path)
    options = ["security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", str(tmp_path / unit)]
    done = subprocess.run([program("systemd-analyze"), *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("unit", INSTANCES)
def test_no_secret_stands_in_an_environment(unit: str) -> None:
    names = set(environment_of(unit))
    assert names <= {"HIVE_HOME", "HIVE_STORE", "HIVE_LOG_FORMAT", *SECRET_FILES.values()}
    for name in names & set(SECRET_FILES.values()):
        credential = environment_of(unit)[name].removeprefix("%d/")
        assert f"{credential}:/etc/hive/{credential}" in values(unit, "LoadCredential")


@pytest.mark.parametrize("unit", INSTANCES)
def test_a_stop_has_time_for_the_drain(unit: str) -> None:
    (text,) = values(unit, "TimeoutStopSec")
    assert int(text.removesuffix("s")) >= Settings().drain_s + GRACE_S
    assert values(unit, "KillMode") == ["mixed"], "its children are its own to end"
    assert values(unit, "ReadWritePaths") == [environment_of(unit)["HIVE_STORE"]]


def started(unit: str, folder: Path, **places: str) -> HiveProcess:
    """The command of a unit with its environment, in this folder."""
    text = " ".join(values(unit, "ExecStart")).replace("%i", places.pop("instance", ""))
    command, *arguments = shlex.split(text)
    assert command == PROGRAM
    specifiers = {"%S": str(folder / "state"), "%d": str(folder / "credentials"), "/srv/models": str(folder / "models")}
    env = {}
    for name, value in environment_of(unit).items():
        for old, new in specifiers.items():
            value = value.replace(old, new)
        env[name] = value
    return HiveProcess("hive.cli", *arguments, env=env)


def test_the_commands_of_server_and_workers_run_and_stop_in_time(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "credentials").mkdir(mode=0o500)
    (tmp_path / "credentials").chmod(0o700)
    (tmp_path / "credentials" / "redis-url").write_text(redis_url + "\n")
    (tmp_path / "credentials" / "redis-url").chmod(0o400)
    server = started("hive-api@8080.service", tmp_path, instance="0")
    workers = started("hive-worker@1.service", tmp_path, instance="1")
    try:
        url = server.wait_for_log("listening")["address"]
        workers.wait_for_log("1 workers are ready")
        wait_for(lambda: len(requests.get(f"{url}/v1/workers", timeout=60).json()["data"]) == 1, "they find each other")
    finally:
        for process, unit in ((server, "hive-api@8080.service"), (workers, "hive-worker@1.service")):
            begun = time.monotonic()
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
            assert time.monotonic() - begun < int(values(unit, "TimeoutStopSec")[0].removesuffix("s"))
            process.stop()
    assert redis_url not in server.output + workers.output


def test_the_documentation_names_every_unit() -> None:
    said = (UNITS.parent.parent / "docs" / "systemd.md").read_text()
    for file in UNITS.iterdir():
        name = file.name.replace("@", "@[0-9]+").replace(".", r"\.")
        assert re.search(name, said), file.name
