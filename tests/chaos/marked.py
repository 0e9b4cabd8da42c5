"""A pool of workers of which one dies at a marked point, once: `python -m tests.chaos.marked --concurrency N`.

Problem: the moments in which a death hurts most last microseconds; a kill from outside meets them by chance. The easy
way, hooks in the code, would ship them. So this wraps the function that stands at the mark before the pool forks, and
the first process that comes by kills itself and its parent with SIGKILL.

Environment: CHAOS_MARK names the mark, CHAOS_FLAG a file that is made by whoever dies, so that nobody does twice.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hive.downloads.claims import Claims
from workers.pool import main
from workers.process.worker import DownloadWorker
from workers.publish import Store


def die(with_parent: bool) -> None:
    """Kill this process; and its parent before, where this one is a horse. The second time nothing happens."""
    try:
        os.close(os.open(os.environ["CHAOS_FLAG"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if with_parent:
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def dying(owner: type, name: str, *, before: bool, horse: bool = True) -> Callable[[], None]:
    """A mark before or after a method; after it only where it gave something."""

    def install() -> None:
        real = getattr(owner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            if before:
                die(horse)
            found = real(*args, **kwargs)
            if found or found is None:
                die(horse)
            return found

        setattr(owner, name, marked)

    return install


#: Every mark, by its name.
MARKS: dict[str, Callable[[], None]] = {
    "a job was taken from the queue": dying(DownloadWorker, "execute_job", before=True, horse=False),
    "a download was claimed": dying(Claims, "claim", before=False),
    "a file is about to be renamed": dying(Store, "publish", before=True),
    "a file was renamed": dying(Store, "publish", before=False),
    "a model is complete on disk": dying(Store, "complete", before=False),
    "the end was told": dying(Claims, "finish", before=False),
}

if __name__ == "__main__":
    MARKS[os.environ["CHAOS_MARK"]]()
    sys.exit(main())
