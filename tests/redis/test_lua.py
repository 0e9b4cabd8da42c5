"""Scripts as files: what they name is what a caller must give, and what they repeat of Python is the same."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, get_args

import fakeredis
import pytest

from hive.downloads import scripts
from hive.redis.lua import Script, load, names_of
from hive.wire import keys
from hive.wire.events import State
from hive.wire.jobs import RANK_STEP, RANKS, TURN_MS

PACKAGES = ("hive.downloads", "hive.webhooks", "workers.fleet")
#: Files that others include.
PARTS = ("prelude", "notify", "owners", "caps", "turns")
SCRIPTS = [
    (package, path.name.removesuffix(".lua"))
    for package in PACKAGES
    for path in sorted((resources.files(package) / "scripts").iterdir(), key=lambda path: path.name)
    if path.name.endswith(".lua")
]


def test_arguments_are_passed_by_name_in_the_order_that_the_script_declares() -> None:
    source = "local a, b = unpack(KEYS)\nlocal c, d = unpack(ARGV)\nreturn {a, b, c, d, ARGV[3]}"
    script = Script(fakeredis.FakeRedis(), source)
    assert script(["e"], d="D", c="C", b="B", a="A") == [b"A", b"B", b"C", b"D", b"e"]


@pytest.mark.parametrize("named", [{"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 2}])
def test_a_name_too_many_or_too_few_is_refused(named: dict[str, Any]) -> None:
    script = Script(fakeredis.FakeRedis(), "local a = unpack(KEYS)\nlocal b = unpack(ARGV)\nreturn b")
    with pytest.raises(TypeError, match="the script takes a, b; wrong or missing"):
        script(**named)


@pytest.mark.parametrize(("package", "name"), [script for script in SCRIPTS if script[1] not in PARTS])
def test_every_script_opens_by_saying_what_it_does_and_what_it_takes(package: str, name: str) -> None:
    source = load(package, name)
    opening = source.split("\n\n")[0].split("\nlocal function")[0]
    assert opening.startswith("-- ")
    assert "-> " in opening
    named_keys, named_args = names_of(source)
    assert named_keys or named_args
    assert len({*named_keys, *named_args}) == len(named_keys) + len(named_args)
    behind = re.findall(r"for i = (\d+), #ARGV", source)
    assert all(int(first) == len(named_args) + 1 for first in behind), "what follows begins behind what is named"
    positions = re.findall(r"\b(?:KEYS|ARGV)\[\d+\]", source)
    assert not positions, f"{positions} by position, not by name"


def test_the_prelude_knows_the_names_and_numbers_of_the_wire() -> None:
    prelude = load("hive.downloads", "prelude")
    assert f"METRICS, PAUSED = '{keys.METRICS}', '{keys.PAUSED}'" in prelude
    assert f"RANKS = {{{', '.join(f'{name} = {rank}' for name, rank in RANKS.items())}}}" in prelude
    assert f"RANK_STEP = {RANK_STEP}\n" in prelude
    assert f"WAIT_CLASSES_S = {{{', '.join(map(str, scripts.QUEUE_WAIT_CLASSES_S))}}}" in prelude
    assert f"STATES = {{{', '.join(repr(state) for state in get_args(State))}}}" in prelude
    assert keys.state_index("x") == "hive:state:x"
    assert f"'{keys.quota(1).removesuffix('1')}'" in prelude
    notify = load("hive.downloads", "notify")
    assert f"'{keys.WEBHOOKS_DUE}'" in notify
    assert f"'{keys.WEBHOOKS_STANDING}'" in notify
    assert f"'{keys.webhooks('x').replace('x', chr(39) + ' .. id .. ' + chr(39))}'" in notify


def test_the_scripts_of_owners_know_the_names_of_the_wire() -> None:
    owners = load("hive.downloads", "owners")
    assert "'hive:owner:' .. owner" in owners
    assert keys.owner_index("x") == "hive:owner:x"
    assert f"'{keys.OWNERS}'" in owners
    turns = load("hive.downloads", "turns")
    assert f"PENDING, LEASES = '{keys.PENDING}', '{keys.LEASES}'" in turns
    assert "return 'hive:line:' .. owner end" in turns
    assert keys.owner_line("x") == "hive:line:x"
    assert "return 'hive:turns:' .. int(rank) end" in turns
    assert keys.turns("low") == f"hive:turns:{RANKS['low']}"
    assert f"TURN_MS, GAP_MS = {TURN_MS}, " in turns
