"""What fields mean, for the reference alone: a wire type is read at every start, and its server needs no sentences.

By type, then field. A type that inherits fields inherits their notes. What a name says by itself has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_ID: Final = "What everything about this download is asked with."
_ATTEMPT: Final = "Counts up whenever the download goes back to the queue or is set aside."
_REFETCHED: Final = "Bytes that came over the network again."

NOTES: Final[Mapping[str, Mapping[str, str]]] = {
    "PlanRequest": {
        "model_ref": "`hf:org/name`, `hf:org/name@revision`, `hf:org/name:Q4_K_M`, one file of a repository, or a URL.",
        "revision": "A branch, tag or commit; the same as `@revision` in the reference.",
        "include": "Globs over the whole path in the repository: only these files.",
        "exclude": "Globs over the whole path in the repository: not these files.",
        "update": "Ask the Hub what a moving revision stands for now; without it a model on disk is answered from the "
        "disk.",
        "hf_token": "A token of the Hub for this request only. It travels encrypted and is never shown.",
        "sha256": "For plain URLs: the digest that the file must have.",
        "name": "For plain URLs: what the file is to be called.",
    },
    "DownloadRequest": {
        "max_bytes_per_second": "A limit for this download alone, below that of the fleet.",
        "priority": "How soon it gets a worker. `high` takes the place of a running `low` one.",
        "webhook_url": "Is told, signed, when this download has ended.",
    },
    "RetryRequest": {
        "hf_token": "The token again: the first one was not kept.",
        "webhook_url": "A webhook again: the first one was not kept.",
    },
    "PriorityRequest": {"priority": "How soon it gets a worker."},
    "PlaceRequest": {
        "before": "The id of the download that is to come right after it.",
        "behind": "The id of the download that is to come right before it.",
    },
    "BandwidthRequest": {"bytes_per_second": "What all workers together may take; null: no limit."},
    "RunningRequest": {"max_running": "How many downloads may run at once; null: no limit."},
    "VerifyRequest": {
        "models": "Ids and references; without it all are read.",
        "fetch": "Set wrong files aside, and fetch them again.",
    },
    "CollectRequest": {
        "dry_run": "Say what would be removed, and remove nothing.",
        "older_than_seconds": "Age from which partial files go, in place of HIVE_PARTIAL_TTL_S.",
    },
    "TicketRequest": {
        "ids": "The downloads that it opens.",
        "all": "All downloads that the key sees, in place of `ids`.",
        "ttl": "Seconds of its life.",
    },
    "PartialFile": {
        "path": "Relative to the store; its name is the digest of the content.",
        "kind": "`set_aside`: its bytes were wrong.",
        "bytes": "What it takes on the disk, with its journal.",
        "modified_at": "When it was last written, unix seconds.",
        "in_use": "Whether a download that has not ended wants it; else it goes after HIVE_PARTIAL_TTL_S.",
        "model_ref": "What that download asked for.",
    },
    "Started": {
        "download_id": _ID,
        "local_path": "Where the model is, if it is on disk already.",
        "joined": "Whether the same was under way already.",
    },
    "DownloadPlan": {
        "name": "What it is called.",
        "commit": "The commit that the revision stands for.",
        "variant": "The quantisation that was chosen.",
        "local_path": "Where the model is, if nothing is missing.",
        "bytes_missing": "What would be fetched.",
        "room": "Null where the disk does not say.",
    },
    "PlanFile": {
        "digest": "`sha256:` or `git-sha1:`, and hex digits.",
        "on_disk": "Whether it need not be fetched.",
    },
    "Room": {
        "available": "Bytes that downloads may take, beside what is kept free and reserved.",
        "enough": "Whether what is missing fits in.",
    },
    "Download": {
        "id": _ID,
        "model_ref": "What was asked for.",
        "status": "`queued`, `resolving`, `downloading`, `verifying`, `paused`, `retrying`, or at the end `complete`, "
        "`failed`, `cancelled`.",
        "local_path": "The file, the first shard, or the snapshot's folder, once it is complete.",
        "attempt": _ATTEMPT,
        "retry_of": "The download that this one tries again.",
        "worker": "Who has it in hand.",
        "duration_seconds": "From the request to the end.",
        "active_seconds": "What workers spent on it.",
        "bytes_received": "Over the network, in all attempts.",
        "bytes_refetched": _REFETCHED,
        "average_bytes_per_second": "While it was worked on.",
        "reason": "Why it ended: `COMPLETE`, `ON_DISK`, or the code of the error.",
        "name": "What it is called, once that is known.",
        "ahead": "While it waits: how many are before it.",
        "waiting_for": "While it waits: what for.",
        "progress": "Its latest event.",
    },
    "Model": {
        "id": "`org/name`, `org/name:Q4_K_M`, `org/name@revision` or `url/<16 hex digits>/<file>`.",
        "created": "When it was published, unix seconds.",
        "size": "Bytes of its files; a content that two names share counts once.",
        "path": "What a program opens: a file, the first shard, or the snapshot's folder.",
        "revision": "The commit.",
        "refs": "The branches and tags that stand for it.",
        "variant": "Its quantisation, for a GGUF model.",
        "incomplete": "There, and true, where shards are missing.",
    },
    "Deleted": {"freed_bytes": "What the disk got back: less than the size where files are shared."},
    "Health": {"proof": "The answer to the nonce."},
    "Bandwidth": {"bytes_per_second": "Null: no limit."},
    "Running": {"max_running": "Null: no limit."},
    "TicketReply": {"ticket": "For `?ticket=`.", "expires_at": "Unix seconds."},
    "SessionReply": {
        "key_id": "The public id of the key; empty without keys.",
        "expires_at": "Unix seconds.",
    },
    "Worker": {
        "state": "`idle` or `busy`.",
        "download_id": "What it has in hand.",
        "seen_at": "When it was last heard of, unix seconds.",
    },
    "Page": {"next_cursor": "Asks for the next page; null on the last."},
    "ErrorBody": {
        "code": "What a program reads.",
        "message": "What a person reads: what is wrong, and what to do.",
        "details": "The figures behind the message.",
        "request_id": "Under which the log has more.",
        "type": "For OpenAI's clients: `invalid_request_error`, `rate_limit_error` or `server_error`, by the status.",
        "param": "For OpenAI's clients: always null.",
    },
    "Downloading": {
        "bytes_downloaded": "Never goes back.",
        "bytes_total": "0: not known yet.",
        "speed_mbps": "10^6 bytes a second.",
        "status": "What it does.",
        "bytes_per_second": "The same speed, exact.",
        "eta_seconds": "Until the end, at this speed.",
        "files": "Up to 8 that are under way.",
        "bytes_refetched": _REFETCHED,
        "attempt": _ATTEMPT,
        "name": "What it is called, while it waits.",
        "priority": "Where it is not `normal`.",
        "message": "What is to be known of it.",
    },
    "Complete": {
        "local_path": "The file, the first shard, or the snapshot's folder.",
        "bytes_refetched": _REFETCHED,
        "verified": "Whether there was a digest to compare with.",
        "seconds": "From the request to the end.",
        "attempt": _ATTEMPT,
        "message": "What is to be known of it: that the Hub could not be asked whether this is all.",
    },
    "Error": {
        "message": "What is wrong, and what to do.",
        "code": "One of the codes of the errors.",
        "details": "The figures behind the message.",
        "attempt": _ATTEMPT,
    },
    "Problem": {
        "model": "`org/name@<commit>`, or the id of a URL's file.",
        "expected": "What should be there: bytes, or hex digits.",
        "found": "What is there.",
    },
    "Refetch": {
        "download_id": "Watch it as any other.",
        "code": "Why it could not be asked for.",
    },
    "Verified": {"downloads": "What was asked for again.", "problems": "How many."},
    "Removed": {"path": "Relative to the store."},
    "Kept": {"in_use": "Whether somebody uses it after all."},
    "Collected": {"dry_run": "Whether nothing was removed in fact.", "kept": "How many could not be removed."},
}


def notes_of(kind: type) -> dict[str, str]:
    """The notes of a wire type, with those of the types that it inherits from."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        found.update(NOTES.get(ancestor.__name__, {}))
    return found
