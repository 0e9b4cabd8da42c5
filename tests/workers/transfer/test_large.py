"""A file of 1 GiB with the engine's real numbers, killed twenty times on its way."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

from tests.hub import HubServer, SyntheticFile
from tests.support.child import Child
from tests.support.content import MIB
from workers.transfer import Digest, Limits, Location, Source, data_path, fetch

KILLS = 20
CONTENT = SyntheticFile(1024 * MIB, seed=77)
#: Bytes a kill may cost: what the design allows, 64 MiB or a second.
KILL_COSTS_BYTES = 64 * MIB

_CHILD = """
import sys
from pathlib import Path
from workers.transfer import Digest, Limits, Location, Source, fetch
url, size, sha256, partial = sys.argv[1:]
source = Source(lambda: Location(url), int(size), Digest("sha256", sha256), "file")
fetch(source, Path(partial), limits=Limits(keep_free_fraction=0.0))
"""


def test_twenty_kills_cost_at_most_64_mib_each(hub: HubServer, tmp_path: Path) -> None:
    url = hub.plain("f", CONTENT)
    partial = tmp_path / "f"
    arguments = [url, str(CONTENT.size), CONTENT.sha256(), str(partial)]
    hub.limit_rate_bytes_per_s = 25 * MIB
    chance = random.Random(20)
    sent_bytes = deaths = 0
    for _ in range(KILLS):
        hub.reset_log()
        with Child([sys.executable, "-c", _CHILD, *arguments]) as child:
            hub.log.wait_for("/f", sent_bytes=chance.randrange(MIB, 80 * MIB), timeout_s=60)
            child.kill()
            child.wait()
            deaths += child.returncode == -9
        hub.close_connections()
        sent_bytes += hub.bytes_sent("/f")
    hub.limit_rate_bytes_per_s = None
    hub.reset_log()
    limits = Limits(keep_free_fraction=0.0)
    source = Source(lambda: Location(url), CONTENT.size, Digest("sha256", CONTENT.sha256()), "file")
    fetched = fetch(source, partial, limits=limits)
    sent_bytes += hub.bytes_sent("/f")
    assert deaths == KILLS
    assert fetched.verified
    with data_path(partial).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == CONTENT.sha256()
    again = sent_bytes - CONTENT.size
    print(f"{again / KILLS / MIB:.1f} MiB sent again per kill")
    assert again <= KILLS * KILL_COSTS_BYTES
