"""What the system refuses a process because it, or its machine, is at a limit: memory, threads, open files.

None of it is a disk's refusal, a network's or a mistake of hive's, though it looks like any of them: an OSError, a
MemoryError, or the RuntimeError of a thread that cannot start.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from hive.errors import ResourcesExhausted

#: What the system says then, and the way out.
_WAYS_OUT: Final = {
    errno.EMFILE: "Raise it (ulimit -n).",
    errno.ENFILE: "Raise it (sysctl fs.file-max).",
    errno.ENOMEM: "Give it more memory (ulimit -v, ulimit -d, the memory of a container).",
}
#: What CPython says where the system gives it no thread, and what to raise.
_NO_THREAD: Final = "can't start new thread"
_MORE_THREADS: Final = (
    "No further thread can be started. Raise it (ulimit -u, the pids of a container, systemd's TasksMax), or the "
    "memory."
)


def limit_reached(error: BaseException) -> ResourcesExhausted | None:
    """The limit that an error speaks of, with the way out; None for an error that speaks of none."""
    match error:
        case MemoryError():
            text = f"{os.strerror(errno.ENOMEM)}. {_WAYS_OUT[errno.ENOMEM]}"
        case RuntimeError() if str(error) == _NO_THREAD:
            text = _MORE_THREADS
        case OSError() if error.errno in _WAYS_OUT:
            text = f"{os.strerror(error.errno)}. {_WAYS_OUT[error.errno]}"
        case _:
            return None
    return ResourcesExhausted(f"hive is at a limit of its process or machine, not of the disk: {text}")
