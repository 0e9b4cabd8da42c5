"""The shell scripts: in a copy of the project whose installation is a stand-in, so that none takes a minute."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.child import Child
from tests.support.waiting import wait_for

ROOT = Path(__file__).parent.parent.parent
#: Seconds that a script may take before the test fails.
SCRIPT_TIMEOUT_S = 120

#: Takes a moment, as an installation does, and writes down that it ran.
INSTALL = """#!/bin/sh
set -eu
cd "$(dirname "$0")/.."
echo installed >>installs
sleep 0.3
mkdir -p .venv/bin
printf '#!/bin/sh\\necho "hive $*"\\n' >.venv/bin/hive
chmod +x .venv/bin/hive
cat pyproject.toml requirements/*.txt >.venv/installed
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our `scripts/hive` and a quick `scripts/install`."""
    project = tmp_path / "a project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "hive", project / "scripts" / "hive")
    (project / "scripts" / "install").write_text(INSTALL)
    (project / "scripts" / "install").chmod(0o755)
    (project / "pyproject.toml").write_text("one\n")
    (project / "requirements").mkdir()
    (project / "requirements" / "run.txt").write_text("a==1\n")
    return project


def start(script: Path, *args: str, **env: str) -> Child[str]:
    return Child(
        [str(script), *args],
        env=os.environ | env,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: Path, *args: str, **env: str) -> tuple[int, str, str]:
    with start(script, *args, **env) as process:
        out, err = process.communicate(timeout=SCRIPT_TIMEOUT_S)
    return process.returncode, out, err


def installs(project: Path) -> int:
    return len((project / "installs").read_text().splitlines())


def test_hive_installs_itself_once_and_then_runs_from_any_folder(project: Path, tmp_path: Path) -> None:
    script = project / "scripts" / "hive"
    assert run(script, "pull", "a b")[:2] == (0, "hive pull a b\n")
    assert run(script, "ps") == (0, "hive ps\n", "")
    (tmp_path / "link").symlink_to(script)
    assert run(tmp_path / "link", "ls") == (0, "hive ls\n", "")
    assert installs(project) == 1


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements/run.txt"])
def test_hive_installs_again_when_the_project_has_changed(project: Path, changed: str) -> None:
    run(project / "scripts" / "hive")
    (project / changed).write_text("two\n")
    assert run(project / "scripts" / "hive", "ls")[:2] == (0, "hive ls\n")
    assert installs(project) == 2


def test_two_that_start_at_once_install_once(project: Path) -> None:
    both = [start(project / "scripts" / "hive", str(at)) for at in range(3)]
    outputs = []
    for process in both:
        with process:
            outputs.append(process.communicate(timeout=SCRIPT_TIMEOUT_S)[0])
    assert outputs == ["hive 0\n", "hive 1\n", "hive 2\n"]
    assert installs(project) == 1
    assert not (project / ".venv.lock").is_symlink()


def test_a_lock_that_a_dead_process_left_does_not_hold(project: Path) -> None:
    with Child(["true"]) as dead:
        dead.wait()
    (project / ".venv.lock").symlink_to(str(dead.pid))
    assert run(project / "scripts" / "hive", "ls")[:2] == (0, "hive ls\n")


def test_a_failed_installation_leaves_no_lock_and_its_code(project: Path) -> None:
    (project / "scripts" / "install").write_text("#!/bin/sh\nexit 7\n")
    assert run(project / "scripts" / "hive")[0] == 7
    assert not (project / ".venv.lock").is_symlink()


def test_an_interrupted_installation_leaves_no_lock(project: Path) -> None:
    (project / "scripts" / "install").write_text(f"#!/bin/sh\ntouch '{project}/begun'\nexec sleep 5\n")
    with start(project / "scripts" / "hive") as process:
        wait_for((project / "begun").exists, "not begun")
        process.terminate()
        assert process.wait(SCRIPT_TIMEOUT_S) == 130
    assert not (project / ".venv.lock").is_symlink()


def test_install_says_which_python_it_needs(project: Path) -> None:
    shutil.copy(ROOT / "scripts" / "install", project / "scripts" / "install")
    old = project / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, out, err = run(project / "scripts" / "install", HIVE_PYTHON=str(old))
    assert (code, out) == (1, "")
    assert "Python 3.11 or newer" in err
    assert str(old) in err
    assert not (project / ".venv").exists()


def test_install_knows_its_options_only(project: Path) -> None:
    shutil.copy(ROOT / "scripts" / "install", project / "scripts" / "install")
    code, _, err = run(project / "scripts" / "install", "--nonsense")
    assert code == 2
    assert err.startswith("usage: scripts/install")


def test_install_brings_an_extra_that_was_asked_for_once_at_each_later_call(project: Path) -> None:
    shutil.copy(ROOT / "scripts" / "install", project / "scripts" / "install")
    (project / "pyproject.toml").touch()
    (project / "requirements").mkdir(exist_ok=True)
    (project / "requirements" / "run.txt").touch()
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >>calls\n')
    python.chmod(0o755)

    def installed(*options: str) -> str:
        (project / "calls").unlink(missing_ok=True)
        code, _, err = run(project / "scripts" / "install", *options)
        assert code == 0, err
        return (project / "calls").read_text()

    assert "serve.txt" not in installed()
    assert "requirements/serve.txt" in installed("--serve")
    assert "requirements/buckets.txt" in installed("--buckets")
    later = installed()
    assert later.count("requirements/serve.txt") == later.count("requirements/buckets.txt") == 1


@pytest.mark.parametrize("name", ["hive", "install", "check", "test", "lock", "audit"])
def test_every_script_is_said_in_the_readme_and_can_be_run(name: str) -> None:
    script = ROOT / "scripts" / name
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/bin/sh\n")
    assert f"`scripts/{name}`" in (ROOT / "scripts" / "README.md").read_text()
