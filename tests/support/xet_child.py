"""A real process that fetches over Xet, slowly: what the test of kill -9 kills. Arguments: URL, token URL, Xet hash,
size, sha256, partial, bytes per second.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hive.net.egress import Network
from tests.support.xet_store import XET_QUICK
from workers.transfer import Control, Digest, HostPool, Location, Source, fetch
from workers.transfer.xet.transport import Xet


def main() -> None:
    url, token_url, xet_hash, size, digest, partial, rate = sys.argv[1:]
    source = Source(lambda: Location(url), int(size), Digest("sha256", digest), "file")
    control = Control(bandwidth=lambda n_bytes: time.sleep(n_bytes / float(rate)))
    with HostPool(Network(), XET_QUICK) as pool, Xet(lambda: Location(token_url), pool, XET_QUICK) as xet:
        ways = [xet.transport(xet_hash, int(size))]
        fetch(source, Path(partial), control=control, limits=XET_QUICK, shared=pool, transports=ways)


if __name__ == "__main__":
    main()
