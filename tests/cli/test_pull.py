"""`hive pull` and `hive watch` against a server whose answers the test writes."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from hive.cli.hub_token import HubToken, read_token
from hive.client import Client
from hive.settings import Settings
from hive.wire.events import Downloading, Event, FileProgress, decode
from hive.wire.proof import is_proof, proof
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, command
from tests.support.pty import Terminal
from tests.support.standin_server import (
    DONE,
    HOLD,
    ID,
    OTHER_ID,
    PAUSE,
    StandIn,
    complete,
    download,
    failed,
    frame,
    running,
)
from tests.support.waiting import wait_for


def test_a_pull_prints_the_path_and_nothing_else_on_stdout(server: StandIn, hive: Hive) -> None:
    server.streams = [[frame(running(420)), frame(complete()), DONE]]
    result = hive("pull", "org/name")
    assert (result.code, result.out) == (0, "/store/model.gguf\n")
    assert result.err.splitlines() == [
        "org/name: downloading  42.0%  420 B/1.0 kB  500.0 kB/s",
        "org/name: 1.0 kB in 2s (500 B/s), verified",
    ]


def test_the_options_go_into_the_request(server: StandIn, hive: Hive) -> None:
    digest = "a" * 64
    hive("pull", "org/name", "-r", "v1", "--include", "*.gguf", "--include", "*.json", "--exclude", "x", "--update")
    hive("pull", "https://example.com/x.gguf", "--sha256", digest, "--name", "模型.gguf")
    assert server.bodies() == [
        {"model_ref": "org/name", "revision": "v1", "include": ["*.gguf", "*.json"], "exclude": ["x"], "update": True},
        {"model_ref": "https://example.com/x.gguf", "sha256": digest, "name": "模型.gguf"},
    ]


def test_quiet_shows_the_path_only(server: StandIn, hive: Hive) -> None:
    result = hive("pull", "-q", "org/name")
    assert (result.code, result.out, result.err) == (0, "/store/model.gguf\n", "")


def test_json_gives_one_event_a_line(server: StandIn, hive: Hive) -> None:
    events: list[Event] = [running(1), running(2), complete()]
    server.streams = [[*(frame(event) for event in events), DONE]]
    result = hive("pull", "--json", "org/name")
    assert [decode(line) for line in result.out.splitlines()] == events
    assert (result.code, result.err) == (0, "")


def test_a_failed_download_ends_with_code_1_and_what_the_server_said(server: StandIn, hive: Hive) -> None:
    server.streams = [
        [
            frame(
                failed("VARIANT_NOT_FOUND", details={"variants": ["Q4_K_M", {"name": "Q8_0", "bytes": 7_200_000_000}]})
            ),
            DONE,
        ]
    ]
    result = hive("pull", "org/name:Q8")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines() == [
        "error: There is no room. [VARIANT_NOT_FOUND]",
        "hint: hive pull org/name:Q8_0  # 7.2 GB",
        "hint: hive pull org/name:Q4_K_M",
    ]


def test_a_refused_request_ends_with_code_1_and_its_code(server: StandIn, hive: Hive) -> None:
    server.errors["/v1/models/download"] = (400, {"code": "UNSAFE_URL", "message": "Not from there.", "details": {}})
    result = hive("pull", "http://10.0.0.1/x")
    assert (result.code, result.err) == (1, "error: Not from there. [UNSAFE_URL]\n")


def test_escapes_in_a_message_do_not_reach_the_terminal(server: StandIn, hive: Hive) -> None:
    server.errors["/v1/models/download"] = (
        400,
        {"code": "X", "message": "a\x1b[2Jb\nc", "details": {"v": ["\x1b]0;"]}},
    )
    assert "\x1b" not in hive("pull", "org/name").err


def test_what_is_no_reference_is_wrong_usage_and_is_not_sent(server: StandIn, hive: Hive) -> None:
    result = hive("pull", "not a ref")
    assert result.code == 2
    assert "[INVALID_MODEL_REF]" in result.err
    assert server.requests == []


def test_the_query_of_a_url_is_not_shown(server: StandIn, hive: Hive) -> None:
    server.streams = [[frame(running(1)), frame(complete()), DONE]]
    result = hive("pull", "https://example.com/x.gguf?signature=secret")
    assert "secret" not in result.err + result.out
    assert "https://example.com/x.gguf?..." in result.err


def test_detach_prints_the_id_at_once(server: StandIn, hive: Hive) -> None:
    server.streams = [[HOLD]]
    result = hive("pull", "--detach", "org/name")
    assert (result.code, result.out) == (0, f"{ID}\n")
    assert f"hive watch {ID[:8]}" in result.err
    server.started["local_path"] = "/store/x"
    assert json.loads(hive("pull", "-d", "--json", "org/name").out)["local_path"] == "/store/x"


def test_a_lost_connection_is_said_once_and_got_over(server: StandIn, hive: Hive) -> None:
    server.streams = [[frame(running(1))], 503, [frame(complete()), DONE]]
    result = hive("pull", "org/name")
    assert result.code == 0
    assert result.err.count("connecting again") == 1


def test_a_named_server_that_does_not_answer_is_an_error(env: dict[str, str], hive_process: Hive) -> None:
    result = hive_process("pull", "org/name", HIVE_HOST="127.0.0.1:1")
    assert result.code == 1
    assert "127.0.0.1:1" in result.err
    assert "[SERVER_UNREACHABLE]" in result.err
    assert "HIVE_HOST" in result.err


def test_a_named_server_that_is_something_else_is_an_error(server: StandIn, hive: Hive) -> None:
    server.errors["/v1/health"] = (404, "<html>")
    result = hive("pull", "org/name")
    assert result.code == 1
    assert "is not hive" in result.err


# Tokens


def test_the_token_of_the_environment_goes_to_this_machine(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert "canary" not in "".join(map(str, hive("pull", "org/name")))
    hive("pull", "org/name", "--no-token")
    assert [body.get("hf_token") for body in server.bodies()] == ["hf_canary", None]


@pytest.mark.parametrize("key", [b"", b"another key"])
def test_the_token_of_the_environment_stays_here_where_the_server_does_not_prove_the_key(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    server.key = key
    result = hive("pull", "org/name")
    assert [body.get("hf_token") for body in server.bodies()] == [None]
    assert "HF_TOKEN is not sent" in result.err
    assert "canary" not in result.out + result.err


def test_a_token_that_is_named_goes_to_a_server_that_is_named(server: StandIn, hive: Hive, tmp_path: Path) -> None:
    server.key = b"the key of a container"
    (tmp_path / "token").write_text("hf_file\n")
    assert hive("pull", "org/name", "--token-file", str(tmp_path / "token")).code == 0
    assert [body["hf_token"] for body in server.bodies()] == ["hf_file"]


def test_a_token_that_is_named_does_not_go_to_whatever_listens(server: StandIn, tmp_path: Path) -> None:
    from hive.cli.errors import CliError

    server.key = b""
    with Client(server.url) as client, pytest.raises(CliError, match="not sent a token") as caught:
        HubToken("hf_canary", named=True, key_file=tmp_path / "none", server_named=False).for_client(client)
    assert "canary" not in str(caught.value)


def test_a_proof_is_of_one_key_one_nonce_and_one_address() -> None:
    made = proof(b"key", "n" * 32, "127.0.0.1", 8080)
    assert is_proof(made, b"key", "n" * 32, "127.0.0.1", 8080)
    assert not is_proof(made, b"kez", "n" * 32, "127.0.0.1", 8080)
    assert not is_proof(made, b"key", "m" * 32, "127.0.0.1", 8080)
    assert not is_proof(made, b"key", "n" * 32, "127.0.0.1", 8081), "handed on by a listener at another port"
    assert not is_proof(made, b"key", "n" * 32, "::1", 8080)
    assert not is_proof(proof(b"", "n" * 32, "127.0.0.1", 8080), b"", "n" * 32, "127.0.0.1", 8080)


def test_a_token_is_read_from_a_file_or_from_stdin(server: StandIn, hive_process: Hive, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_file\n")
    assert hive_process("pull", "org/name", "--token-file", str(tmp_path / "token")).code == 0
    assert hive_process("pull", "org/name", "--token-stdin", stdin="hf_stdin\n").code == 0
    assert [body["hf_token"] for body in server.bodies()] == ["hf_file", "hf_stdin"]


@pytest.mark.parametrize(
    ("args", "stdin", "said"),
    [
        (("--token-file", "/nonexistent"), "", "No such file"),
        (("--token-stdin",), "", "holds no token"),
        (("--token-stdin",), "two words", "holds no token"),
        (("--token-stdin",), "x" * 600, "holds no token"),
        (("--token-stdin", "--no-token"), "", "only one of"),
    ],
)
def test_a_token_that_is_not_there_is_wrong_usage(
    server: StandIn, hive_process: Hive, args: tuple[str, ...], stdin: str, said: str
) -> None:
    result = hive_process("pull", "org/name", *args, stdin=stdin)
    assert result.code == 2
    assert said in result.err
    assert server.bodies() == []


def test_a_token_never_goes_over_plain_http_to_another_machine() -> None:
    from hive.cli.errors import CliError

    settings = Settings.from_env({"HF_TOKEN": "hf_canary"})
    token = read_token(settings, None, from_stdin=False, none=False)
    assert token.for_server("http://hive.example:8080") is None
    assert token.for_server("https://hive.example") == token.for_server("http://[::1]:80") == "hf_canary"
    with pytest.raises(CliError, match="plain http") as caught:
        HubToken("hf_canary", named=True).for_server("http://hive.example")
    assert "canary" not in str(caught.value) + repr(token)


# Watching


def test_watch_takes_the_start_of_an_id(server: StandIn, hive: Hive) -> None:
    server.downloads = [download(ID), download(OTHER_ID)]
    assert hive("watch", ID[:8]).out == "/store/model.gguf\n"
    ambiguous = hive("watch", "1111")
    assert (ambiguous.code, ambiguous.out) == (2, "")
    assert ID[:8] in ambiguous.err
    assert OTHER_ID[:8] in ambiguous.err


@pytest.mark.parametrize(("text", "code"), [("abcd", 1), ("abc", 1), ("org/other", 1), ("0" * 8 + ID[8:], 1)])
def test_watch_says_when_there_is_no_such_id(server: StandIn, hive: Hive, text: str, code: int) -> None:
    result = hive("watch", text)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")


def test_watch_shows_events_as_json(server: StandIn, hive: Hive) -> None:
    assert json.loads(hive("watch", ID, "--json").out)["stage"] == "complete"


# Interrupting


def start(env: dict[str, str], *args: str) -> Child[str]:
    return Child(command(*args), env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("args", [("pull", "org/name"), ("watch", ID)])
def test_ctrl_c_detaches_and_says_how_to_come_back(server: StandIn, env: dict[str, str], args: tuple[str, ...]) -> None:
    server.streams = [[frame(running(1)), HOLD]]
    process = start(env, *args)
    wait_for(lambda: server.stream_headers, "nobody watches")
    with process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=COMMAND_TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if line.startswith("hint:")] == [
        f"hint: hive watch {ID[:8]}",
        f"hint: hive cancel {ID[:8]}",
    ]
    assert "Traceback" not in err
    assert not [path for method, path, _ in server.requests if method == "DELETE"]


def test_a_reader_that_goes_is_no_error(server: StandIn, env: dict[str, str]) -> None:
    server.streams = [[*(frame(running(done)) for done in range(1000)), PAUSE, frame(complete()), DONE]]
    with start(env, "pull", "--json", "org/name") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(COMMAND_TIMEOUT_S) == 0
        assert process.stderr.read() == ""


# On a terminal


def test_a_terminal_gets_bars_for_each_file_and_the_whole(server: StandIn, env: dict[str, str]) -> None:
    files = (FileProgress("model-1.safetensors", 300, 600), FileProgress("config.json", 100, 400))
    event = running(420, files=files, files_total=3, files_done=1, eta_seconds=65, bytes_per_second=2_000_000)
    server.streams = [[frame(event), PAUSE, PAUSE, PAUSE, PAUSE, PAUSE, PAUSE, frame(complete()), DONE]]
    with Terminal(command("pull", "org/name"), env) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    shown = terminal.text
    for part in (
        "org/name",
        "model-1.safetensors",
        "config.json",
        "42.0%",
        "1/3 files",
        "2.0 MB/s",
        "1m05s left",
        "━",
    ):
        assert part in shown, part
    assert shown.splitlines()[-1] == "/store/model.gguf"
    assert "in 2s (500 B/s), verified" in shown.splitlines()[-2]


def test_the_status_is_shown_while_nothing_moves(server: StandIn, env: dict[str, str]) -> None:
    queued = Downloading(bytes_downloaded=0, bytes_total=0, speed_mbps=0, status="retrying", message="the Hub is busy")
    server.streams = [[frame(queued), *[PAUSE] * 8, frame(complete()), DONE]]
    with Terminal(command("pull", "org/name"), env) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    assert "retrying: the Hub is busy" in terminal.text


def test_ctrl_c_on_a_terminal_leaves_it_in_order(server: StandIn, env: dict[str, str]) -> None:
    server.streams = [[frame(running(420)), HOLD]]
    with Terminal(command("pull", "org/name"), env) as terminal:
        terminal.wait_for_text("42.0%")
        terminal.write(b"\x03")
        assert terminal.wait(COMMAND_TIMEOUT_S) == 130
    assert "hive watch 11111111" in terminal.text
    assert terminal.raw.rfind(b"\x1b[?25h") > terminal.raw.rfind(b"\x1b[?25l")


def test_no_color_means_no_colour(server: StandIn, env: dict[str, str]) -> None:
    server.errors["/v1/models/download"] = (400, {"code": "X", "message": "No.", "details": {}})
    colours = []
    for more in ({}, {"NO_COLOR": "1"}):
        with Terminal(command("pull", "org/name"), env | more) as terminal:
            assert terminal.wait(COMMAND_TIMEOUT_S) == 1
        colours.append(b"\x1b[31m" in terminal.raw)
    assert colours == [True, False]
