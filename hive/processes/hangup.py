"""SIGHUP for whoever is asked to outlive it: nohup, disown and some schedulers have it ignored before we begin."""

from __future__ import annotations

import signal


def without_ignored_hangup(*numbers: signal.Signals) -> tuple[signal.Signals, ...]:
    """These signals, without SIGHUP where this process was started with it ignored: a handler would end what was meant
    to go on when the terminal closes.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in numbers if not (is_ignored and number == signal.SIGHUP))
