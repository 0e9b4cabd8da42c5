"""Figures and words as people read them. Sizes are decimal (1 MB is 10^6 bytes), like `speed_mbps`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from hive.terminal import plain as plain

if TYPE_CHECKING:
    from hive.wire.refs import ModelRef

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
#: Seconds in the units of a duration.
_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60


def size(count: float | None) -> str:
    """`1.2 GB`; a dash where it is not known."""
    if count is None:
        return "-"
    power = 0
    while round(count, 1) >= 1000 and power < len(_UNITS) - 1:
        count /= 1000
        power += 1
    return f"{count:.0f} {_UNITS[power]}" if power == 0 else f"{count:.1f} {_UNITS[power]}"


def speed(bytes_per_second: float | None) -> str:
    """`45.2 MB/s`; nothing where there is none."""
    return f"{size(bytes_per_second)}/s" if bytes_per_second else ""


def duration(seconds: float | None) -> str:
    """`4s`, `3m05s`, `2h10m`, `3d04h`; nothing where it is not known."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02d}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02d}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02d}h"


def age(unix_s: float | None) -> str:
    """How long ago: `3m05s ago`; a dash where it is not known."""
    return f"{duration(time.time() - unix_s)} ago" if unix_s else "-"


def percent(done: int, total: int) -> str:
    """`42.0%`, never 100 before all is there; nothing where the total is not known."""
    return f"{min(done * 1000 // total, 1000) / 10:.1f}%" if total else ""


def shown(ref: ModelRef | str) -> str:
    """A reference as people type it: without `hf:`."""
    return (ref if isinstance(ref, str) else ref.display).removeprefix("hf:")
