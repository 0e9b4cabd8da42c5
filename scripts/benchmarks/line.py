"""A line of so many bits a second between a server and this machine: a network namespace behind a token bucket.

Over the loopback every tool is measured by its CPU alone: it brings 3 GB/s, a line of 1 Gbit/s 0.12. Behind the
kernel's token bucket (tc-tbf(8)) a server's bytes come as they do from a network card: no faster than the line, and in
pieces. It needs root and iproute2; nothing is left of it at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from benchmarks import machine
from benchmarks.running import Place

#: The two ends, of the network that is kept for benchmarks (RFC 2544, C.2.2).
NEAR, FAR, PREFIX_BITS = "198.18.77.1", "198.18.77.2", 30
#: Bytes that may leave the bucket at once: some segments of the kernel's, which are of up to 64 KiB.
BURST_BYTES = 256 * 1024
#: What may wait in front of the bucket; longer queues only make the delay larger.
QUEUE_MS = 20


@contextlib.contextmanager
def line(rate: str) -> Iterator[Place]:
    """What a server's command begins with so that it is behind the line, and its address. `rate` is `tc`'s: 1gbit.

    Raises:
        SystemExit: where it cannot be made: not root, no iproute2, no token bucket in the kernel.
    """
    name = f"hive-bench-{os.getpid()}"
    near, far = f"hb{os.getpid()}a", f"hb{os.getpid()}b"
    inside = ["ip", "netns", "exec", name]
    with contextlib.ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "del", name)
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        stack.callback(_run, "ip", "link", "del", near)  # the namespace takes it along too, but only some time later
        _run("ip", "address", "add", f"{NEAR}/{PREFIX_BITS}", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run(*inside, "ip", "address", "add", f"{FAR}/{PREFIX_BITS}", "dev", far)
        for device in ("lo", far):
            _run(*inside, "ip", "link", "set", device, "up")
        bucket = ["tbf", "rate", rate, "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"]
        _run(*inside, "tc", "qdisc", "add", "dev", far, "root", *bucket)
        yield Place(tuple(inside), FAR)


def _run(*command: str) -> None:
    if not machine.program(command[0], "iproute2"):
        raise SystemExit("A line needs iproute2.")
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
