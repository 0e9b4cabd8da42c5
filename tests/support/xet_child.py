"""A real process that fetches over Xet, slowly, and never gets all: what the test of kill -9 kills. Arguments: URL,
token URL, Xet hash, size, sha256, partial, bytes per second; with `inf` all of it comes.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from pathlib import Path

from hive.net.egress import Network
from tests.support.xet_store import XET_QUICK
from workers.transfer import Control, Digest, HostPool, Location, Source, fetch
from workers.transfer.xet.transport import Xet


def main() -> None:
    url, token_url, xet_hash, size, digest, partial, rate = sys.argv[1:]
    source = Source(lambda: Location(url), int(size), Digest("sha256", digest), "file")
    lock, left = threading.Lock(), math.inf if math.isinf(float(rate)) else int(size) * 3 // 4

    def wait(n_bytes: int) -> None:
        nonlocal left
        with lock:
            left -= n_bytes
        if left < 0:  # however late it is killed, there is something left
            threading.Event().wait()
        time.sleep(n_bytes / float(rate))

    control = Control(bandwidth=wait)
    with HostPool(Network(), XET_QUICK) as pool, Xet(lambda: Location(token_url), pool, XET_QUICK) as xet:
        ways = [xet.transport(xet_hash, int(size))]
        fetch(source, Path(partial), control=control, limits=XET_QUICK, shared=pool, transports=ways)


if __name__ == "__main__":
    main()
