"""A downloader of large files over ranged HTTP.

Several connections, resumable by any process, verified before anybody sees a byte.

    fetched = fetch(Source(locate, size, digest, name), partial)    ->  <partial>.part, verified and synced
    finish(partial, target)                                         ->  target, durably; discard(partial) gives up

It knows neither Redis nor a queue: a `Control` steers it, a callback hears `Snapshot`s, a `HostPool` shares connections
between fetches.
"""

from hive.addresses import address_check, is_public
from hive.urls import parse_url
from workers.transfer.control import Control
from workers.transfer.disk import free_bytes
from workers.transfer.engine import fetch
from workers.transfer.limits import Limits
from workers.transfer.many import Job, fetch_many
from workers.transfer.network import Network
from workers.transfer.partial import bad_path, data_path, discard, finish, journal_path
from workers.transfer.pool import Cooldown, HostPool, LocalCooldown
from workers.transfer.progress import Snapshot
from workers.transfer.source import Digest, Fetched, Location, Source
from workers.transfer.transport import Stream, Transport
from workers.transfer.urls import signed_url_expiry

__all__ = [
    "Control",
    "Cooldown",
    "Digest",
    "Fetched",
    "HostPool",
    "Job",
    "Limits",
    "LocalCooldown",
    "Location",
    "Network",
    "Snapshot",
    "Source",
    "Stream",
    "Transport",
    "address_check",
    "bad_path",
    "data_path",
    "discard",
    "fetch",
    "fetch_many",
    "finish",
    "free_bytes",
    "is_public",
    "journal_path",
    "parse_url",
    "signed_url_expiry",
]
