"""A downloader of large files over ranged HTTP.

Several connections, resumable by any process, verified before anybody sees a byte.

    fetched = fetch(Source(locate, size, digest, name), partial)    ->  <partial>.part, verified and synced
    finish(partial, target)                                         ->  target, durably; discard(partial) gives up

It knows neither Redis nor a queue: a `Control` steers it, a callback hears `Snapshot`s, a `HostPool` shares connections
between fetches.
"""

from hive.net.egress import Network
from workers.transfer.batch import BatchItem, fetch_many
from workers.transfer.control import Control
from workers.transfer.engine import fetch
from workers.transfer.http.pool import Cooldown, HostPool, LocalCooldown
from workers.transfer.http.redirects import signed_url_expiry
from workers.transfer.limits import Limits
from workers.transfer.probes import probe
from workers.transfer.progress import Snapshot
from workers.transfer.source import Digest, Fetched, Location, Refusal, Served, Source
from workers.transfer.state.disk import STAT_BLOCK_BYTES, free_bytes
from workers.transfer.state.partial import bad_path, data_path, discard, finish, journal_path, kept_bytes, move_file
from workers.transfer.transport import ByteStream, Throttled, Transport
from workers.transfer.xet.transport import Xet, available

__all__ = [
    "STAT_BLOCK_BYTES",
    "BatchItem",
    "ByteStream",
    "Control",
    "Cooldown",
    "Digest",
    "Fetched",
    "HostPool",
    "Limits",
    "LocalCooldown",
    "Location",
    "Network",
    "Refusal",
    "Served",
    "Snapshot",
    "Source",
    "Throttled",
    "Transport",
    "Xet",
    "available",
    "bad_path",
    "data_path",
    "discard",
    "fetch",
    "fetch_many",
    "finish",
    "free_bytes",
    "journal_path",
    "kept_bytes",
    "move_file",
    "probe",
    "signed_url_expiry",
]
