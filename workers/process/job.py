"""The job as a worker takes it from Redis: one function, two plain arguments, and nothing else that RQ could run.

Problem: whoever can write to Redis decides which function RQ imports and calls; the JSON serializer only removes
pickle, `os.system` with a string is still a job. RQ also runs callbacks and sends webhooks that stand in the job's
hash, and unpacks what is packed with zlib at any size: a megabyte in Redis is a gigabyte in every worker. So a job's
hash is read by a list of the fields that hive's own jobs have, what is packed is unpacked as far as a job is long, and
everything but the one known call is refused.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Mapping
from typing import Any, Final

from rq.exceptions import DeserializationError, InvalidJobOperation
from rq.job import Job

from hive.wire.jobs import DOWNLOAD_JOB

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
#: The fields of a job's hash that are read. Others name functions or addresses, or are kept for people to look at
#: (`exc_info`, which is packed, `result`, `meta`).
_FIELDS: Final = frozenset(
    {
        *(b"data", b"created_at", b"enqueued_at", b"started_at", b"ended_at", b"last_heartbeat", b"origin"),
        *(b"worker_name", b"description", b"timeout", b"result_ttl", b"failure_ttl", b"ttl", b"status"),
    }
)
#: Bytes of any of them, and of a job's data unpacked: hive's own have some 150.
MAX_FIELD_BYTES: Final = 4096
#: What a refused job's data is read as: no call at all.
_NO_CALL: Final = b"[]"

log = logging.getLogger("workers.process.job")


class RefusedJob(InvalidJobOperation):
    """A job that is not hive's. Somebody else writes to this Redis."""


class DownloadJob(Job):
    """An RQ job that performs `workers.download.run(download_id, attempt)` or refuses."""

    def restore(self, raw_data: Any) -> Any:
        """Read the job's hash, without what could run anything, and without what cannot be hive's."""
        kept = {name: value for name, value in raw_data.items() if name in _FIELDS and len(value) <= MAX_FIELD_BYTES}
        kept[b"data"] = zlib.compress(_unpacked(raw_data))
        try:
            return super().restore(kept)
        except (ValueError, TypeError) as error:
            # A date or number that is none: a worker that cannot read a job would meet it again and again.
            log.warning("a job is none of hive's", extra={"fields": {"reason": type(error).__name__}, "repeats": True})
            return super().restore({b"data": zlib.compress(_NO_CALL)})

    def perform(self) -> Any:
        """Run the download.

        Raises:
            RefusedJob: when the job is any other call.
        """
        try:
            args = list(self.args or ())
        except (DeserializationError, RecursionError):
            raise RefusedJob("This job is not a download; it was not run.") from None
        well_formed = (
            self.func_name == DOWNLOAD_JOB
            and self.instance is None
            and not self.kwargs
            and len(args) == 2
            and isinstance(args[0], str)
            and _UUID.fullmatch(args[0])
            and type(args[1]) is int
        )
        if not well_formed:
            raise RefusedJob("This job is not a download; it was not run.")
        return super().perform()


def _unpacked(fields: Mapping[bytes, bytes]) -> bytes:
    """A job's data, plain; that of no call where it is too long, or broken."""
    packed = fields.get(b"data", b"")
    if len(packed) > MAX_FIELD_BYTES:
        return _NO_CALL
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, MAX_FIELD_BYTES)
    except zlib.error:
        return packed  # as RQ wrote it once: plain
    return data if unpacker.eof else _NO_CALL
