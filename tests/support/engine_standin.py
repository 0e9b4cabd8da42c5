"""A stand-in of llama-server: it takes the options that hive gives, and does what a test wants it to do.

What no real engine does on demand: die while it loads, never get ready, say states that nobody knows, or make tokens at
a set rate. `write_standin` makes a program of it, which knows its orders by itself.
"""

from __future__ import annotations

import json
import os
import socketserver
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

#: What it does where a test does not say otherwise.
DEFAULTS: dict[str, Any] = {
    "states": [0.0, 0.25, 0.5, 0.75, 1.0],  # shares of the layers, or whole lines
    "state_pause_s": 0.02,
    "says_ready": True,
    "healthy": True,
    "stderr": ["loading"],
    "dies_with": None,  # an exit code, when the states are said
    "hangs": False,  # never ready
    "tokens_per_s": 0.0,  # 0: as fast as it can
    "tokens": None,  # how many it makes; as many as asked where None
    "token_chars": 0,  # of each token's text, filled up with blanks
    "fails_after_tokens": None,
    "dies_after_tokens": None,
    "silent_after_tokens": None,
    "vector_bytes": 64,  # of its answer to a request for vectors
    "ignores_end": False,  # of its input, and SIGTERM
}


def write_standin(path: Path, **orders: Any) -> Path:
    """An executable that behaves so."""
    root = Path(__file__).resolve().parents[2]
    text = (
        f"#!{sys.executable}\nimport json, sys\nsys.path.insert(0, {str(root)!r})\n"
        f"from tests.support.engine_standin import main\nmain(json.loads({json.dumps({**DEFAULTS, **orders})!r}))\n"
    )
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def main(orders: dict[str, Any]) -> None:
    """Be an engine."""
    socket_path = sys.argv[sys.argv.index("--host") + 1]
    state = _State(orders)
    server = _Server(socket_path, lambda *given: _Handler(state, *given))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if orders["ignores_end"]:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        threading.Thread(target=_end_with_input, daemon=True).start()
    for line in orders["stderr"]:
        print(line, file=sys.stderr, flush=True)
    for share in orders["states"]:
        print(share if isinstance(share, str) else _state_line("loading", share), flush=True)
        time.sleep(orders["state_pause_s"])
    if orders["dies_with"] is not None:
        print("error: the stand-in dies", file=sys.stderr, flush=True)
        os._exit(orders["dies_with"])
    if not orders["hangs"]:
        state.ready.set()
        if orders["says_ready"]:
            print('cmd_child_to_router:state:{"state":"ready","payload":{}}', flush=True)
    threading.Event().wait()


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _state_line(state: str, share: float) -> str:
    payload = {"stages": ["text_model"], "current": "text_model", "value": share}
    return "cmd_child_to_router:state:" + json.dumps({"state": state, "payload": payload})


class _State:
    def __init__(self, orders: dict[str, Any]) -> None:
        self.orders = orders
        self.ready = threading.Event()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, state: _State, *given: Any) -> None:
        self._state = state
        super().__init__(*given)

    def do_GET(self) -> None:
        well = self._state.ready.is_set() and self._state.orders["healthy"]
        self._whole(200 if well else 503, b'{"status":"ok"}' if well else b'{"error":{"message":"Loading model"}}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        orders = self._state.orders
        if self.path.endswith("/embeddings"):
            self._whole(200, b'{"data":[{"embedding":[0.5%s]}]}' % (b",0" * (orders["vector_bytes"] // 2)))
            return
        count = orders["tokens"] or asked.get("n_predict") or asked.get("max_tokens") or 16
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        began_s = time.monotonic()
        for number in range(count):
            if number == orders["fails_after_tokens"]:
                self._event({"error": {"code": 500, "message": "the context is full", "type": "server_error"}}, asked)
                break
            if number == orders["dies_after_tokens"]:
                os._exit(1)
            if number == orders["silent_after_tokens"]:
                threading.Event().wait()
            if orders["tokens_per_s"]:
                time.sleep(max(began_s + number / orders["tokens_per_s"] - time.monotonic(), 0))
            text = f"w{number} ".ljust(orders["token_chars"])
            self._event({"index": 0, "content": text, "stop": False, "tokens_predicted": number + 1}, asked)
        self._event({"content": "", "stop": True, "tokens_predicted": count, "stop_type": "limit"}, asked)
        if "messages" in asked:
            self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, event: dict[str, Any], asked: dict[str, Any]) -> None:
        if "messages" in asked:
            event = {"choices": [{"index": 0, "delta": {"content": event["content"]}}]}
        data = b"data: " + json.dumps(event).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _whole(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "test"

    def log_message(self, *given: Any) -> None:
        """Nothing."""
