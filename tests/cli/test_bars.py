"""Bars in lines of any width, and on terminals that can do little."""

from __future__ import annotations

import re

import pytest

from hive.cli.bars import PLAIN, columns_of, cut, lines
from hive.cli.progress import LinePrinter
from hive.wire.events import Downloading, FileProgress
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, command
from tests.support.pty import Terminal
from tests.support.standin_server import DONE, PAUSE, StandIn, complete, frame, running

NAME = "hf:meta-llama/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M"
FILES = (
    FileProgress("model-00002-of-00004.safetensors", 1_200_000_000, 4_900_000_000),
    FileProgress("model-00003-of-00004.safetensors", 100_000_000, 4_900_000_000),
    FileProgress("tokenizer/模型说明文件.json", 500, 1000),
)
EVENT = Downloading(
    bytes_downloaded=2_400_000_000,
    bytes_total=9_800_000_000,
    speed_mbps=109.4,
    status="downloading",
    bytes_per_second=109_400_000,
    eta_seconds=68,
    files_done=1,
    files_total=5,
    files=FILES,
)


@pytest.mark.parametrize("width", [10, 20, 40, 60, 80, 120, 200, 400])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    assert max(columns_of(line) for line in lines(NAME, EVENT, width)) <= width


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_every_line_begins_with_a_name_that_can_be_told_from_the_others(width: int) -> None:
    drawn = lines(NAME, EVENT, width)
    names = [re.split(r"  +", line.strip())[0] for line in drawn]
    assert len(set(names)) == len(FILES) + 1 or width < 80
    assert names[-1].startswith("meta")
    assert names[-1].endswith("Q4_K_M")
    assert all(len(name) >= 12 for name in names)
    assert "24.4%" in drawn[-1]


def test_the_bar_takes_the_room_that_is_left() -> None:
    bars = [len(re.findall("[━─]", lines(NAME, EVENT, width)[-1])) for width in (80, 120, 160, 200)]
    assert bars == sorted(bars)
    assert bars[-1] > 80
    assert lines(NAME, EVENT, 200)[-1].count("━") == round(bars[-1] * 0.2449)


def test_figures_are_left_away_where_there_is_no_room() -> None:
    wide, narrow = lines(NAME, EVENT, 200)[-1], lines(NAME, EVENT, 40)[-1]
    for part in ("2.4 GB/9.8 GB", "1/5 files", "109.4 MB/s", "1m08s left"):
        assert part in wide
        assert part not in narrow


def test_what_it_does_has_a_line_of_its_own() -> None:
    event = Downloading(
        bytes_downloaded=0, bytes_total=0, speed_mbps=0, status="retrying", message="the Hub asks\x1b[2J to wait"
    )
    assert lines("hf:org/name", event, 80) == ["org/name", "  retrying: the Hub asks [2J to wait"]


def test_a_name_is_cut_in_its_middle() -> None:
    names = [cut("model-00001.safetensors", columns) for columns in (23, 22, 10, 1, 0)]
    assert names == ["model-00001.safetensors", "model-0…01.safetensors", "mod…ensors", "…", ""]
    assert columns_of(cut("模型" * 20, 11)) <= 11


def test_plain_letters_draw_bars_where_there_are_no_others() -> None:
    assert all(line.isascii() for line in lines("hf:" + "n" * 100, EVENT, 60, PLAIN)[-1:])


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_shows_lines_of_its_width(server: StandIn, env: dict[str, str], columns: int) -> None:
    event = running(420, files=FILES[:2], files_total=3, files_done=1, eta_seconds=65, bytes_per_second=2_000_000)
    server.streams = [[frame(event), *[PAUSE] * 8, frame(complete()), DONE]]
    with Terminal(command("pull", "org/name"), env, columns=columns) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    shown = [line for line in terminal.text.splitlines() if "42.0%" in line]
    assert shown
    assert all(line.startswith("org/name") and columns_of(line) < columns for line in shown)
    assert terminal.text.splitlines()[-1] == "/store/model.gguf"


def test_a_dumb_terminal_gets_lines(server: StandIn, env: dict[str, str]) -> None:
    server.streams = [[frame(running(420)), frame(complete()), DONE]]
    with Terminal(command("pull", "org/name"), env, term="dumb") as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    assert b"\x1b" not in terminal.raw
    assert "org/name: downloading  42.0%" in terminal.text


def test_no_color_means_bars_without_colours(server: StandIn, env: dict[str, str]) -> None:
    coloured = []
    for more in ({}, {"NO_COLOR": "1"}):
        server.streams = [[frame(running(420)), *[PAUSE] * 8, frame(complete()), DONE]]
        with Terminal(command("pull", "org/name"), env | more) as terminal:
            assert terminal.wait(COMMAND_TIMEOUT_S) == 0
        coloured.append(b"\x1b[32m" in terminal.raw)
    assert coloured == [True, False]


def test_lines_come_each_five_percent(capfd: pytest.CaptureFixture[str]) -> None:
    lines_ = LinePrinter("hf:org/name")
    for done in range(1001):
        lines_.show(running(done))
    shown = capfd.readouterr().err.splitlines()
    assert len(shown) == 21
    assert shown[1] == "org/name: downloading  5.0%  50 B/1.0 kB  500.0 kB/s"


def test_lines_come_after_some_seconds_where_nothing_moves(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter((0.0, 1.0, 9.0, 10.0, 11.0, 25.0))
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    lines_ = LinePrinter("hf:org/name")
    for _ in range(6):
        lines_.show(running(1))
    assert len(capfd.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize("more", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}, {"PYTHONUTF8": "0"}])
def test_a_name_that_the_terminal_cannot_write_is_no_error(
    server: StandIn, hive_process: Hive, more: dict[str, str]
) -> None:
    server.models = [{**server.models[0], "id": "org/模型"}]
    listed = hive_process("ls", "-q", **more)
    assert (listed.code, listed.out) == (0, "org/模型\n"), listed.err
    server.streams = [[frame(running(1)), frame(complete("/store/模型.gguf")), DONE]]
    pulled = hive_process("pull", "org/name", **more)
    assert (pulled.code, pulled.out) == (0, "/store/模型.gguf\n"), pulled.err
