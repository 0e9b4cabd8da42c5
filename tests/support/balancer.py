"""nginx in front of two replicas, configured as plainly as a person would.

`proxy_buffering` is what nginx has by default (on): the stream's own `X-Accel-Buffering: no` must suffice. The access
log counts the requests that reached the replicas, and a response header tells which one answered.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.waiting import wait_for

#: Seconds that nginx has to end.
STOP_S = 10.0
#: Where the page lies that the browser opens.
PAGE_PATH = "/page"
#: An event stream of nginx's own that ends at once, so that an EventSource on it connects again and again: a clock.
CLOCK_PATH = "/clock"

_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format hits '$request_method $request_uri $status $upstream_addr [$http_last_event_id]';
  access_log {folder}/access.log hits;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream hive {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://hive; proxy_set_header Host $http_host; add_header X-Replica $upstream_addr; }}
    location = /page {{ default_type text/html; return 200 '<!doctype html><title>hive</title>'; }}
    location = /clock {{ default_type text/event-stream; return 200 'retry: 2000\\n\\n'; }}
  }}
}}
"""


@dataclass(frozen=True)
class Hit:
    """One request that nginx has seen to its end."""

    method: str
    path: str
    status: int
    replica: str
    last_event_id: str


class Balancer:
    """nginx on a free port, for as long as the block lasts."""

    def __init__(self, folder: Path, ports: list[int], options: str = "") -> None:
        """`options`: what is said of each replica beside its address."""
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = folder / "nginx.conf"
        servers = " ".join(f"server 127.0.0.1:{port} {options};" for port in ports)
        config.write_text(_CONFIG.format(folder=folder, servers=servers, port=self.port))
        self._command = [program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, start_new_session=True)
        wait_for(self._listens, what="nginx")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(STOP_S)

    def hits(self, path: str) -> list[Hit]:
        """The requests under this path, in the order in which they ended."""
        found = []
        for line in (self._folder / "access.log").read_text().splitlines():
            method, uri, status, rest = line.split(" ", 3)
            replica, _, last_event_id = rest.partition(" [")
            if uri.startswith(path):
                found.append(Hit(method, uri, int(status), replica, last_event_id.removesuffix("]").removeprefix("-")))
        return found

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self._folder / "error.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
