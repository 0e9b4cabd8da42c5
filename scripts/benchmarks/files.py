"""Files to clients: hive's `/v1/blobs` against nginx with sendfile, the same file in the page cache, in turns.

The client takes bytes out of the kernel without copying them (MSG_TRUNC), so that the servers are what is measured. It
runs on the generator's core, the server on its own. Beside streams it takes them also no faster than a network card
brings them: the loopback has four times as much, and is limited by the server's core alone.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import machine
from benchmarks.generator import Generator
from benchmarks.running import Nginx
from benchmarks.statichub import write_random
from benchmarks.stream import END_S, WARM_UP_S, Bench, Load
from benchmarks.table import middle, print_table, ratio

_READ_BYTES: Final = 1 << 20
#: Of many clients each takes this part of the file.
SHARE: Final = 16
#: Bytes a second of a network card: 10 Gbit/s.
CARD_BYTES_PER_S: Final = 10 * 10**9 // 8
#: Seconds of streams without files beside them.
ALONE_S: Final = 8.0


class Taken(NamedTuple):
    """One run: seconds, and CPU seconds of the server."""

    seconds: float
    cpu_s: float


def measure(folder: Path, gib: float, clients: int, runs: int, subscribers: int) -> None:
    """Print the tables."""
    files = folder / "files"
    listed = write_random(files / "content", int(gib * 2**30))
    blobs = folder / "hive" / "store" / "hub" / "models--bench--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / listed.sha256).hardlink_to(files / "content")
    path = f"/v1/blobs/sha256:{listed.sha256}"
    config = f"sendfile on; tcp_nopush on; server {{ listen 127.0.0.1:PORT; root {files}; }}"
    each = 1 if clients == 1 else clients
    with Bench(folder) as bench:
        for count in dict.fromkeys((1, each)):
            size = listed.size_bytes if count == 1 else listed.size_bytes // SHARE
            mine: list[Taken] = []
            peers: list[Taken] = []
            for _ in range(runs):
                with bench.hive() as (port, pid, _, _):
                    mine.append(_take(port, pid, path, count, size))
                with Nginx(folder / "nginx", config) as nginx:
                    peers.append(_take(nginx.port, nginx.worker_pid, "/content", count, size))
            rows = [
                [what, *_row([getattr(run, name) for run in mine], [getattr(run, name) for run in peers])]
                for what, name in (("time, s", "seconds"), ("CPU of the server, s", "cpu_s"))
            ]
            title = f"{count} x {size >> 20:,} MiB at once (medians of {runs} runs, in turns)"
            print_table(title, ["", "hive", "nginx, sendfile", "ratio"], rows)
        if subscribers:
            with Nginx(folder / "nginx", config) as nginx:
                _beside_streams(bench, path, nginx.port, each, listed.size_bytes // SHARE, subscribers)


def _row(mine: list[float], peers: list[float]) -> list[str]:
    return [middle(mine, 2), middle(peers, 2), ratio(mine, peers)]


def _take(port: int, pid: int, path: str, clients: int, size: int) -> Taken:
    cpu_s = machine.cpu_s(pid)
    seconds = float(json.loads(_client(port, path, clients, size).communicate()[0])["seconds"])
    return Taken(seconds, machine.cpu_s(pid) - cpu_s)


def _client(port: int, path: str, clients: int, size: int, bytes_per_s: float = math.inf) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, str(port), path, str(clients), str(size), str(bytes_per_s)]
    return subprocess.Popen(machine.pinned(machine.DRIVER_CORE, command), stdout=subprocess.PIPE)


def _beside_streams(bench: Bench, path: str, nginx_port: int, clients: int, size: int, subscribers: int) -> None:
    """How late events are while nothing else happens, while nginx sends files on the server's core, and while hive
    does: the client's work on the generator's core is in both.
    """
    load = Load(subscribers)
    with (
        bench.hive() as (port, _, make_publisher, stream),
        make_publisher(load) as publisher,
        Generator(bench.program, port, [stream + publisher.ids[0]], subscribers) as generator,
    ):
        publisher.tell("go")
        time.sleep(WARM_UP_S)
        generator.tell("window")
        time.sleep(ALONE_S)
        alone = generator.tell("window")
        windows = [alone]
        for bytes_per_s in (CARD_BYTES_PER_S, math.inf):
            for file_port, what in ((nginx_port, "/content"), (port, path)):
                began_s = time.monotonic()
                while time.monotonic() - began_s < ALONE_S:
                    assert _client(file_port, what, clients, size, bytes_per_s).wait() == 0
                windows.append(generator.tell("window"))
        publisher.tell("finish")
        ends = generator.tell(f"end {END_S}")
    rows = [
        [name, *(f"{window['latency'][name]:.1f}" for window in windows)] for name in ("p50_ms", "p99_ms", "max_ms")
    ]
    rows.append(["ends seen", "", "", "", "", f"{ends['terminals']}/{subscribers}"])
    print_table(
        f"{subscribers:,} streams beside {clients} clients of files",
        ["", "alone", *(f"files of {who}, {rate}" for rate in ("10 Gbit/s", "no limit") for who in ("nginx", "hive"))],
        rows,
    )


def _main(port: int, path: str, clients: int, size: int, bytes_per_s: float) -> None:
    """Be the clients: take all, no faster than so together, check the lengths, say how long it took."""
    selector = selectors.DefaultSelector()
    rest = f"Connection: close\r\nRange: bytes=0-{size - 1}\r\n"
    began_s = time.monotonic()
    for _ in range(clients):
        opened = socket.create_connection(("127.0.0.1", port))
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{rest}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += opened.recv(4096)
        assert b" 206 " in head.partition(b"\r\n")[0], head
        opened.setblocking(False)
        selector.register(opened, selectors.EVENT_READ, [len(head.partition(b"\r\n\r\n")[2])])
    scratch, all_bytes = bytearray(_READ_BYTES), 0
    while selector.get_map():
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            taken = sock.recv_into(scratch, _READ_BYTES, socket.MSG_TRUNC)
            key.data[0] += taken
            all_bytes += taken
            time.sleep(max(0, began_s + all_bytes / bytes_per_s - time.monotonic()))
            if not taken:
                assert key.data[0] == size, f"{key.data[0]} of {size} bytes came"
                selector.unregister(sock)
                sock.close()
    print(json.dumps({"seconds": time.monotonic() - began_s}))


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
