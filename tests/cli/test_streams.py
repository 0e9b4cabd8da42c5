"""Standard streams as shells, cron and full disks leave them: closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.hub import HubServer
from tests.support.cli import COMMAND_TIMEOUT_S
from tests.support.private_pull import ALONE, EXPECTED, digest


def in_shell(env: dict[str, str], hub: HubServer, redirections: str, *args: str) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; {shlex.join((*ALONE, *args))} {redirections}"
    env = env | {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}
    shell = ["bash", "-c", line]
    return subprocess.run(shell, env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)


def brought(env: dict[str, str]) -> bool:
    """Whether the model is in the store, byte for byte."""
    found = list(Path(env["HIVE_STORE"]).glob("hub/models--org--name/snapshots/*/model-Q4_K_M.gguf"))
    return len(found) == 1 and digest(str(found[0])) == EXPECTED


@pytest.mark.parametrize("redirections", ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_pull_does_not_need_anybody_to_hear_how_far_it_is(
    env: dict[str, str], hub: HubServer, redirections: str
) -> None:
    done = in_shell(env, hub, redirections, "pull", "org/name")
    assert done.returncode == 0, done.stderr
    assert brought(env)


def test_a_pull_goes_on_when_whoever_read_its_messages_has_gone(env: dict[str, str], hub: HubServer) -> None:
    done = in_shell(env, hub, "2>&1 >/dev/null | head -c 1", "pull", "org/name")
    assert done.returncode == 0, done.stderr
    assert brought(env)


@pytest.mark.parametrize("redirections", ["2>&-", ">&-", "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize("args", [("ls",), ("version",), ("gc", "--dry-run")], ids=" ".join)
def test_commands_end_well_without_their_streams(
    env: dict[str, str], hub: HubServer, redirections: str, args: tuple[str, ...]
) -> None:
    done = in_shell(env, hub, redirections, *args)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr


@pytest.mark.parametrize("args", [("version",), ("ls", "--json"), ("--help",)], ids=" ".join)
def test_a_result_that_cannot_be_written_is_an_error(
    env: dict[str, str], hub: HubServer, args: tuple[str, ...]
) -> None:
    done = in_shell(env, hub, ">/dev/full", *args)
    said = "error: standard output: No space left on device. Free some room there. [DISK_FULL]\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii:strict"}], ids=str)
def test_a_locale_without_letters_brings_models(env: dict[str, str], hub: HubServer, locale: dict[str, str]) -> None:
    done = in_shell(env | locale, hub, "", "pull", "org/name")
    assert done.returncode == 0, done.stderr
    assert brought(env)


def test_names_of_any_script_pass_through_every_command_in_a_locale_without_letters(
    env: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    hub.create("org/any", {"config.json": b"{}", "model.safetensors": b"x" * 100, "模型/größe.txt": b"hello"})
    env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    there, tar = f"HIVE_STORE={tmp_path}/there", f"{tmp_path}/模型.tar"
    for line in (
        f"{shlex.join(ALONE)} pull -q org/any --include 模型/größe.txt",
        f"{shlex.join(ALONE)} export -q org/any -o {tar}",
        f"{there} {shlex.join(ALONE)} import -q {tar}",
        f"{there} {shlex.join(ALONE)} ls --json",
        f"{there} {shlex.join(ALONE)} rm -y org/any",
    ):
        environment = env | {"HF_ENDPOINT": hub.endpoint, "HIVE_HOST": "127.0.0.1:1"}
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, timeout=COMMAND_TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert " ls " not in line or '"path": "模型/größe.txt"'.encode() in done.stdout
    assert list((tmp_path / "store").glob("hub/models--org--any/snapshots/*/模型/größe.txt"))
    assert not list((tmp_path / "there").glob("hub/models--org--any/snapshots/*/模型/größe.txt"))
