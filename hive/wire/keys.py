"""Every Redis key, channel and queue name, in one place.

A download's record and its channel share the hash tag `{download_id}`, so that one script may touch both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from hive.wire.jobs import RANKS, Priority

#: The one RQ queue. A worker process that listened on several would use BLPOP, which loses a job when the worker dies
#: with it in hand.
QUEUE: Final = "hive"
#: Sorted set: running downloads by the end of their lease, ms.
LEASES: Final = "hive:leases"
#: Sorted set: queued downloads, the next one first: by priority, then by whose turn it is, then by the time they were
#: made, ms.
PENDING: Final = "hive:pending"
#: Set: paused downloads.
PAUSED: Final = "hive:paused"
#: Set: downloads whose records nobody can read; see hive/downloads/scripts/set_aside.lua.
UNREADABLE: Final = "hive:unreadable"
#: Sorted set: all listed downloads by the time they were made, ms.
DOWNLOADS: Final = "hive:downloads"
#: String: old partial files were collected; expires when it is time again.
TIDY_TURN: Final = "hive:tidy"
#: Set of the names of workers that may be alive.
WORKERS: Final = "hive:workers"

#: Set of the names of HTTP processes that may be alive.
REPLICAS: Final = "hive:replicas"

#: String: the mark by which HTTP processes see that Redis has lost its data: it is gone then.
EPOCH: Final = "hive:epoch"

#: String: the id of the store that servers and workers share, and where the server has it, as JSON.
STORE: Final = "hive:store"
#: String: that id, while a server says that it has the store; expires.
STORE_SEEN: Final = "hive:store-seen"
#: Lists: references that a resolver is to look at, and those that it looks at when there are no others; see
#: downloads/resolutions.py. String: a resolver is there; expires.
RESOLVE: Final = "hive:resolve"
RESOLVE_LATER: Final = "hive:resolve:later"
RESOLVERS: Final = "hive:resolvers"

#: Hash: bytes on the disk that running downloads will still take.
RESERVED: Final = "hive:reserved"
#: Hash: counters of the whole fleet, counted up by the scripts.
METRICS: Final = "hive:metrics"
#: String: how many downloads may run at once in the whole fleet, 0 for no limit; without it the settings count.
RUNNING_LIMIT: Final = "hive:limits:running"
#: String: bytes per second for the whole fleet, 0 for no limit; without it each process goes by its settings.
BANDWIDTH_LIMIT: Final = "hive:bandwidth:limit"
#: String: when the line is free for the next bytes, microseconds.
BANDWIDTH_LINE: Final = "hive:bandwidth:line"
#: Sorted set: who took a share lately, by when, microseconds.
BANDWIDTH_TAKERS: Final = "hive:bandwidth:takers"

#: Sorted set: webhooks to send, `<download id>/<name>`, by when, ms.
WEBHOOKS_DUE: Final = "hive:webhooks:due"
#: Sorted set: names of the webhooks of the settings, which every end goes to, by how long they count, ms.
WEBHOOKS_STANDING: Final = "hive:webhooks:standing"

#: Hex digits that tell the owners of one download apart.
OWNER_MARK_CHARS: Final = 16
#: Set: those of whom there is an index of downloads; see `owner_index`.
OWNERS: Final = "hive:owners"

#: String: the index by state knows every listed download.
INDEX_BUILT: Final = "hive:state:built"

#: Sorted set: LLM workers by the end of their lease, ms.
LLM_WORKERS: Final = "hive:llm"
#: Set of the names of machines that offer to run models.
LLM_HOSTS: Final = "hive:llm:hosts"
#: Hash: how to start again the workers that ended because nobody asked, by what their requests have in common.
LLM_RESTING: Final = "hive:llm:resting"


def record(download_id: str) -> str:
    """Hash: the record of a download."""
    return f"hive:{{{download_id}}}"


def _events_prefix(database: int) -> str:
    """What the channels of a database begin with. Redis has channels for all databases together, and two hives in two
    of them must not hear each other. Database 0 has the names of the first release.
    """
    return f"hive:db{database}:events:" if database else "hive:events:"


def events(download_id: str, database: int) -> str:
    """Channel: the events of a download."""
    return f"{_events_prefix(database)}{{{download_id}}}"


def owners_prefix(database: int) -> str:
    """What the channels begin with that tell who shares a download from now on. Who listens to events hears them too,
    and does not take them for any.
    """
    return f"{_events_prefix(database)}owners:"


def quota(day: int) -> str:
    """Hash: bytes that each owner's downloads received on this day, counted from 1970, by UTC; expires."""
    return f"hive:quota:{day}"


def state_index(state: str) -> str:
    """Sorted set: the downloads in this state, by the time they were made, ms."""
    return f"hive:state:{state}"


def owner_index(owner: str) -> str:
    """Sorted set: the downloads that somebody has a share in, by the time they were made, ms."""
    return f"hive:owner:{owner}"


def owner_line(owner: str) -> str:
    """Sorted set: what waits of one owner, by priority and age; expires. Kept by downloads/scripts/turns.lua."""
    return f"hive:line:{owner}"


def turns(priority: Priority) -> str:
    """Sorted set: who had a turn lately among what waits with this priority, by its place; "" is the round; expires."""
    return f"hive:turns:{RANKS[priority]}"


def owner_mark(owner: str) -> str:
    """What the names of webhooks end with that somebody's requests brought; "" without a key."""
    return f".{hashlib.sha256(owner.encode()).hexdigest()[:OWNER_MARK_CHARS]}" if owner else ""


def single_flight(dedup_key: str) -> str:
    """String: the id of the download under way for this dedup key (see refs.dedup_key)."""
    return f"hive:flight:{dedup_key}"


def secret(download_id: str) -> str:
    """String: the encrypted credentials that came with the request; expires, and is deleted at the end."""
    return f"hive:secret:{{{download_id}}}"


def urgent(download_id: str) -> str:
    """String: a worker was asked to make room for this download; expires, so that another is asked then."""
    return f"hive:urgent:{download_id}"


def webhooks(download_id: str) -> str:
    """Hash: the webhooks of a download: `t:<name>` its sealed URL, `n:<name>` the tries so far, `body`."""
    return f"hive:webhooks:{{{download_id}}}"


def plan(plan_id: str) -> str:
    """String: a question about a reference; expires."""
    return f"hive:plan:{{{plan_id}}}"


def plan_answer(plan_id: str) -> str:
    """String: the answer to it; expires."""
    return f"hive:plan:{{{plan_id}}}:answer"


def worker(name: str) -> str:
    """Hash: what a worker says of itself; expires when it falls silent."""
    return f"hive:worker:{name}"


def replica(name: str) -> str:
    """Hash: the figures of an HTTP process; expires when it falls silent."""
    return f"hive:replica:{name}"


def file(name: str) -> str:
    """String: the download that writes this partial file; expires with its lease."""
    return f"hive:file:{name}"


def wrong_digest(digest: str) -> str:
    """String: bytes under this digest were handed out before they were found wrong; expires."""
    return f"hive:wrong:{digest}"


def cooldown(host: str) -> str:
    """String: this host asked to be left alone; expires when that is over."""
    return f"hive:cooldown:{host}"


def llm_worker(worker_id: str) -> str:
    """Hash: the record of an LLM worker; expires after its end, never before."""
    return f"hive:llm:{{{worker_id}}}"


def llm_flight(key: str) -> str:
    """String: the LLM worker that has this model, on this backend and device."""
    return f"hive:llm:model:{key}"


def llm_host(name: str) -> str:
    """Hash: what a machine that runs models says of itself; expires when it falls silent."""
    return f"hive:llm:host:{name}"


def llm_orders(name: str) -> str:
    """List: what this machine is to do, start a worker or end one; expires."""
    return f"hive:llm:orders:{name}"


def llm_events_prefix(database: int) -> str:
    """What the channels begin with that tell how far a model is loaded, as those of downloads do."""
    return f"hive:db{database}:llm:events:" if database else "hive:llm:events:"


def llm_events(worker_id: str, database: int) -> str:
    """Channel: the loading of one LLM worker's model."""
    return f"{llm_events_prefix(database)}{{{worker_id}}}"


class Channels(NamedTuple):
    """The channels of one kind of things: what they begin with, by the number of the database."""

    prefix: Callable[[int], str]

    def pattern(self, database: int) -> str:
        """What a process subscribes to."""
        return f"{self.prefix(database)}*"

    def id_of(self, channel: bytes, database: int) -> str | None:
        """Whose channel this is; None where it is none of these."""
        text, prefix = channel.decode("ascii", "replace"), self.prefix(database) + "{"
        return text[len(prefix) : -1] if text.startswith(prefix) and text.endswith("}") else None

    def probe(self, name: str, database: int) -> str:
        """What a process sends itself to see that its subscription is alive."""
        return f"{self.prefix(database)}probe:{name}"


#: Those of downloads, those that tell who shares one, and those of models that are loaded.
DOWNLOAD_CHANNELS: Final = Channels(_events_prefix)
OWNERS_CHANNELS: Final = Channels(owners_prefix)
LLM_CHANNELS: Final = Channels(llm_events_prefix)
