"""The files of deploy/proxies, run by the programs that they are for.

What a test changes in a file is where things are: names, ports, certificates and folders. Each change must find what
it replaces, so that a file which no longer says it fails here. All else runs as it stands there.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hive.processes.children import bound_to_us
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.tls import Authority
from tests.support.waiting import wait_for

ROOT: Final = Path(__file__).parent.parent.parent
FILES: Final = ROOT / "deploy" / "proxies"
#: The programs that there are files for, and that can be had here.
NAMES: Final = ("caddy", "nginx", "haproxy")
#: What replicas are told: streams end soon at a stop, and a proxy on this machine is believed.
SETTINGS: Final = {"HIVE_DRAIN_S": "0.2", "HIVE_TRUSTED_PROXIES": "127.0.0.1"}
#: Seconds that a program has to end.
STOP_S: Final = 20.0

_NGINX_MAIN = """
daemon off;
{user}
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_shutdown_timeout 10s;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/hive.conf;
}}
"""


class Change(NamedTuple):
    """What a test replaces in a file, everywhere."""

    old: str
    new: str


class Proxy:
    """A program in front of two replicas, on a free port of the loopback."""

    def __init__(self, name: str, folder: Path, ports: Sequence[int], extra: Sequence[Change] = ()) -> None:
        """`extra`: what a test replaces beside the places of things."""
        self.name = name
        self._folder = folder
        folder.mkdir(parents=True)
        self._log = folder / "log"
        self.port, plain, self._admin = free_ports(3)
        self.url = f"https://localhost:{self.port}"
        self.plain_url = f"http://localhost:{plain}"
        authority = Authority(folder)
        self.ca = str(authority.file)
        self._certificate = authority.issue("localhost")
        self.tls = ssl.create_default_context(cafile=self.ca)
        self._file = folder / {"caddy": "Caddyfile", "nginx": "hive.conf", "haproxy": "haproxy.cfg"}[name]
        source = FILES / {"nginx": "nginx.conf"}.get(name, self._file.name)
        places = [Change(f"10.0.0.1{number}:8080", f"127.0.0.1:{port}") for number, port in enumerate(ports, 1)]
        changes = [*extra, *places, *self._places(plain)]
        self._file.write_text(changed(source.read_text(), changes))

    def _places(self, plain: int) -> list[Change]:
        """Where the file finds the things of this machine."""
        pem = str(self._certificate)
        if self.name == "caddy":
            places = f"\tadmin 127.0.0.1:{self._admin}\n\tdefault_bind 127.0.0.1\n\thttp_port {plain}\n"
            return [
                Change("\tgrace_period", f"{places}\tgrace_period"),
                Change("hive.example.org {", f"https://localhost:{self.port} {{\n\ttls {pem} {pem}"),
            ]
        if self.name == "nginx":
            main = self._folder / "nginx.conf"
            user = "user root;" if os.geteuid() == 0 else ""
            main.write_text(_NGINX_MAIN.format(folder=self._folder, user=user))
            return [
                Change("hive.example.org", "localhost"),
                Change("listen 443", f"listen 127.0.0.1:{self.port}"),
                Change("listen 80", f"listen 127.0.0.1:{plain}"),
                Change("/etc/ssl/hive/fullchain.pem", pem),
                Change("/etc/ssl/hive/privkey.pem", pem),
                Change("/var/log/nginx/hive.log", str(self._folder / "access.log")),
                Change("/var/log/nginx/hive-error.log", str(self._folder / "hive-error.log")),
            ]
        return [
            Change("bind :443", f"bind 127.0.0.1:{self.port}"),
            Change("bind :80", f"bind 127.0.0.1:{plain}"),
            Change("/etc/haproxy/certs/hive.pem", pem),
            Change("log /dev/log local0", "log stdout format raw local0"),
        ]

    def _command(self) -> list[str]:
        return {
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(self._file)],
            "nginx": ["-p", str(self._folder), "-e", str(self._folder / "error.log"), "-c", "nginx.conf"],
            "haproxy": ["-W", "-f", str(self._file)],
        }[self.name]

    def start(self) -> None:
        """Until it listens."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                bound_to_us([program(self.name), *self._command()]),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        wait_for(self._listens, what=f"{self.name} listens")

    def reload(self) -> None:
        """What its service does when it is told to reload; returns when it was told."""
        if self.name == "caddy":
            options = ["--force", "--adapter", "caddyfile", "--config", str(self._file)]
            subprocess.run(
                [program("caddy"), "reload", *options, "--address", f"127.0.0.1:{self._admin}"],
                check=True,
                capture_output=True,
                env=self._environment(),
                timeout=STOP_S,
            )
        else:
            self._process.send_signal(signal.SIGHUP if self.name == "nginx" else signal.SIGUSR2)

    def stop(self) -> None:
        """Now, whatever is open."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def log(self) -> str:
        """What it wrote, in whatever log."""
        logs = [self._log, *self._folder.glob("*.log")]
        return "".join(log.read_text() for log in logs)

    def _environment(self) -> dict[str, str]:
        return {"PATH": f"{os.environ['PATH']}:/usr/sbin", "HOME": str(self._folder)}

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


def changed(text: str, changes: Sequence[Change]) -> str:
    """The text with all changes made. AssertionError: one of them finds nothing to change."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the file"
        text = re.sub(re.escape(old), lambda _, new=new: new, text)  # type: ignore[misc]
    return text


@contextlib.contextmanager
def running(name: str, folder: Path, ports: Sequence[int], extra: Sequence[Change] = ()) -> Iterator[Proxy]:
    """The program in front of these ports, until the end."""
    program(name)
    made = Proxy(name, folder / name, ports, extra)
    made.start()
    try:
        yield made
    finally:
        made.stop()
