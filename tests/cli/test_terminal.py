"""No text from elsewhere reaches a terminal as anything but text, whatever command shows it, and however."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hive.wire.events import Error
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, command
from tests.support.pty import Terminal
from tests.support.standin_server import DONE, ID, StandIn, complete, download, frame, model, running

#: OSC with ESC and as one character, CSI as one, the clipboard, a title, marks of direction, line ends of Unicode, DEL.
EVIL = "\x1b]0;pwned\x07\x9d52;c;cHduZWQ=\x9c\x9b2J\u202egnp.\u2066\u2028\x85\x7f\u200f\r\nerror: forged"
#: What hive itself sends: colours, the cursor, lines that are cleared.
OWN = re.compile(r"\x1b\[[0-9;?]*[mAKGhlHJ]")
CLI = Path(__file__).parents[2] / "hive/cli"


def nest(value: Any) -> Any:
    """The same answer with evil text behind every text in it that is not an id, a kind or a state."""
    if isinstance(value, dict):
        kept = ("id", "download_id", "object", "status", "stage")
        return {name: part if name in kept else nest(part) for name, part in value.items()}
    if isinstance(value, list):
        return [nest(part) for part in value]
    return value + EVIL if isinstance(value, str) else value


def assert_harmless(raw: bytes) -> None:
    text = OWN.sub("", raw.decode())
    bad = {char for char in text if not char.isprintable() and char not in "\r\n"}
    assert not bad, (sorted(map(hex, map(ord, bad))), text)
    assert "error: forged" not in [line.strip() for line in text.splitlines() if line.startswith("error: forged")]


def evil_events() -> list[bytes]:
    under_way = msgspec.structs.replace(running(420, message=f"working {EVIL}"), status=f"queued{EVIL}")
    return [frame(under_way, "1-1"), frame(running(500), "1-2"), frame(complete(f"/store/{EVIL}"), "1-3"), DONE]


@pytest.mark.parametrize(
    "args",
    [
        ["ps"],
        ["ps", "--json"],
        ["ls"],
        ["ls", "--json"],
        ["ls", "-q"],
        ["show", ID],
        ["show", ID, "--json"],
        ["show", f"org/name{EVIL}"],
        ["pull", "org/name"],
        ["pull", "org/name", "--json"],
        ["watch", ID],
        ["cancel", ID],
        ["version"],
        ["rm", "--yes", f"org/name{EVIL}"],
        ["rm", f"org/other{EVIL}"],
        ["pull", f"hf:{EVIL}"],
    ],
)
def test_what_a_server_answers_is_harmless_on_a_terminal(env: dict[str, str], server: StandIn, args: list[str]) -> None:
    server.downloads = [nest(download(event=running(420, message="x")))]
    server.models = [nest(model("org/name")), nest(model("org/name:Q8_0"))]
    server.streams = [evil_events()]
    with Terminal(command(*args), env) as terminal:
        terminal.wait(COMMAND_TIMEOUT_S)
        assert_harmless(terminal.raw)


@pytest.mark.parametrize("level", ["info", "debug"])
def test_an_error_of_a_server_is_harmless_and_stays_on_its_lines(
    env: dict[str, str], server: StandIn, level: str
) -> None:
    details = {"variants": [{"name": f"Q4{EVIL}", "bytes": 1}], "similar": [EVIL], "why": [EVIL]}
    end = Error(message=f"none {EVIL}", code=f"VARIANT{EVIL}", status="failed", details=details)
    server.streams = [[frame(end), DONE]]
    server.errors["/v1/downloads"] = (404, {"code": f"X{EVIL}", "message": EVIL, "details": details})
    for args in (["pull", "org/name:Q4_K_M"], ["ps"]):
        with Terminal(command(*args), env | {"HIVE_LOG_LEVEL": level}) as terminal:
            assert terminal.wait(COMMAND_TIMEOUT_S) == 1
            assert_harmless(terminal.raw)


def test_json_for_programs_means_what_the_server_said(server: StandIn, hive: Hive) -> None:
    server.downloads = [nest(download())]
    text = hive("ps", "--json").out
    assert json.loads(text)[0]["model_ref"] == f"hf:org/name{EVIL}"
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_path_goes_to_a_program_as_it_is(server: StandIn, hive: Hive) -> None:
    server.streams = [[frame(complete("/store/\u200fmodel.gguf")), DONE]]
    assert hive("pull", "org/name").out == "/store/\u200fmodel.gguf\n"


def test_only_one_module_of_the_command_line_writes() -> None:
    writes = re.compile(r"\bclick\.(?:s?echo|echo_via_pager)\(|(?<![\w.])print\(|\bstd(?:out|err)\.write\(|print_exc")
    found = [path.name for path in CLI.glob("*.py") if writes.search(path.read_text("utf-8"))]
    assert found == ["output.py"]
