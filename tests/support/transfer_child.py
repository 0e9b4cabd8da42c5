"""A real process that fetches: what the tests of kill -9 kill. Arguments: url, size, sha256 or "-", partial."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.transfer import QUICK
from workers.transfer import Digest, Location, Source, fetch


def main() -> None:
    url, size, digest, partial = sys.argv[1:]
    source = Source(
        lambda: Location(url),
        int(size) if digest != "-" else None,
        Digest("sha256", digest) if digest != "-" else None,
        "file",
    )
    fetch(source, Path(partial), limits=QUICK)


if __name__ == "__main__":
    main()
