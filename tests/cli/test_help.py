"""The help, wrong usage, and how fast both are."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from hive.cli import COMMANDS, cli, function_of
from hive.version import VERSION
from tests.support.cli import Hive

NAMES = [(name, entry) for section in COMMANDS.values() for name, entry in section.items()]
#: What `hive --help` must not import: each takes longer than the help itself.
HEAVY = {"asyncio", "cryptography", "httpx2", "msgspec", "redis", "requests", "rich", "rq", "starlette", "uvicorn"}


@pytest.mark.parametrize(("name", "entry"), NAMES)
def test_each_line_of_the_help_is_what_the_command_says_of_itself(name: str, entry: tuple[str, str]) -> None:
    found = getattr(importlib.import_module(entry[0]), function_of(name))
    assert isinstance(found, click.Command)
    assert (found.name, found.short_help) == (name, entry[1])


@pytest.mark.parametrize("name", [name for name, _ in NAMES])
def test_every_command_and_every_option_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: hive {name}") or f" {name} " in result.output.splitlines()[0]
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    for option in found.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, option.name


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_hive_alone_shows_the_help(hive: Hive, args: tuple[str, ...]) -> None:
    result = hive(*args)
    assert result.code == 0
    assert [name for name, _ in NAMES if f"  {name} " not in result.out] == []
    assert result.err == ""


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("args", [("--help",), *((name, "--help") for name, _ in NAMES)], ids=lambda args: args[0])
def test_no_line_of_help_is_longer_than_the_terminal(
    hive: Hive, monkeypatch: pytest.MonkeyPatch, columns: int, args: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = hive(*args)
    assert result.code == 0
    assert [line for line in result.out.splitlines() if len(line) > columns] == []


def test_the_help_imports_nothing_heavy() -> None:
    script = (
        f"import sys; from hive.cli import run; run(['--help']); sys.exit(sorted({HEAVY!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_that_of_the_package(hive: Hive) -> None:
    assert hive("--version").out == f"hive {VERSION}\n"


def test_a_misspelt_command_is_guessed(hive: Hive) -> None:
    result = hive("pul", "x")
    assert result.code == 2
    assert result.err.splitlines()[0] == "error: There is no command 'pul'. Did you mean 'pull'?"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("pull",), "Missing argument 'REF...'"),
        (("pull", "x", "--no-such"), "No such option"),
        (("ps", "--limit", "0"), "0 is not in the range"),
        (("up", "--port", "70000"), "70000 is not in the range"),
        (("up", "--workers", "0"), "0 is not in the range"),
        (("watch",), "Missing argument 'ID'"),
    ],
)
def test_wrong_usage_is_one_line_a_hint_and_code_2(hive: Hive, args: tuple[str, ...], said: str) -> None:
    result = hive(*args)
    assert result.code == 2
    assert said in result.err.splitlines()[0]
    assert result.err.splitlines()[0].startswith("error: ")
    assert result.err.splitlines()[1] == f"hint: hive {args[0]} --help"
    assert result.out == ""


def test_a_setting_that_cannot_be_used_is_named(hive_process: Hive) -> None:
    result = hive_process("ls", HIVE_FILES_AT_ONCE="many")
    assert result.code == 2
    assert "HIVE_FILES_AT_ONCE" in result.err
    assert "Traceback" not in result.err
