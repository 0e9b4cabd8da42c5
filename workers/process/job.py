"""The job as a worker takes it from Redis: one function, two plain arguments, and nothing else that RQ could run.

Problem: whoever can write to Redis decides which function RQ imports and calls; the JSON serializer only removes
pickle, `os.system` with a string is still a job. RQ also runs callbacks and sends webhooks that stand in the job's
hash. So everything but the one known call is refused when a job is read.
"""

from __future__ import annotations

import re
from typing import Any

from rq.exceptions import InvalidJobOperation
from rq.job import Job

from hive.wire.jobs import DOWNLOAD_JOB

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
#: The fields of a job's hash that name functions or addresses.
_FORBIDDEN_FIELDS = frozenset(
    {b"success_callback_name", b"failure_callback_name", b"stopped_callback_name", b"webhooks", b"dependency_ids"}
)


class RefusedJob(InvalidJobOperation):
    """A job that is not hive's. Somebody else writes to this Redis."""


class DownloadJob(Job):
    """An RQ job that performs `workers.download.run(download_id, attempt)` or refuses."""

    def restore(self, raw_data: Any) -> Any:
        """Read the job's hash, without what could run anything."""
        kept = {name: value for name, value in raw_data.items() if name not in _FORBIDDEN_FIELDS}
        return super().restore(kept)

    def perform(self) -> Any:
        """Run the download.

        Raises:
            RefusedJob: when the job is any other call.
        """
        args = list(self.args or ())
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
