"""Child processes that end with their parent and that Ctrl-C does not reach.

Problem: whoever starts a child must be able to end it in its own time, and must not leave it behind when killed. A
terminal sends Ctrl-C to the whole foreground group, so a child in the parent's group would stop before the parent could
stop things in order; and a parent that is killed with SIGKILL runs no clean-up. The easy way, `preexec_fn`, runs Python
between fork and exec, which can deadlock where the parent has threads. So each child gets a process group of its own,
and on Linux is started through a tiny program that asks the kernel for SIGTERM at the parent's death (PR_SET_PDEATHSIG)
and then becomes the child: same pid, no Python left; a child that is forked and goes on as Python asks for itself
(`die_with_parent`). Elsewhere the child is started directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

log = logging.getLogger("hive.processes.children")

#: The order to prctl: which signal the kernel sends at the parent's death.
_PR_SET_PDEATHSIG: Final = 1
#: Asks for a signal at the parent's death; gives up where the parent has died before it could ask.
_TRAMPOLINE: Final = f"""\
import ctypes, os, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])
"""


def bound_to_us(command: Sequence[str], number: signal.Signals = signal.SIGTERM) -> list[str]:
    """`command` (with an absolute program), wrapped so that the child gets this signal when this process dies.

    The kernel watches the *thread* that starts the child: start children from a thread that lives as long as they
    should.
    """
    if not sys.platform.startswith("linux"):
        return list(command)
    # -I and -S: no user code, no site-packages; 14 ms instead of 40.
    return [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), str(int(number)), *command]


def die_with_parent(sig: signal.Signals) -> None:
    """In a forked child: have the kernel send `sig` to this process when the thread that forked it dies. Linux only;
    elsewhere it does nothing. The parent may have died before: compare `os.getppid` afterwards.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    except (OSError, AttributeError):
        log.debug("no prctl on this system")


def python_module(module: str, *args: str) -> list[str]:
    """The command that runs a module with this interpreter, never one that lies in the working directory by chance
    (`-P`).
    """
    return [sys.executable, "-P", "-m", module, *args]


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group that `pid` leads; nothing happens where it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
