"""The Lua scripts of LLM workers' records: each checks, writes, and tells the channel of the same, in one step, as
those of downloads do and for the same reasons (hive/downloads/scripts).

State machine: queued -> loading -> idle <-> busy -> draining -> stopped; failed from everywhere. An ended record is
final. Time is Redis' own.
"""

from __future__ import annotations

from hive.redis.lua import load

CREATE = load("hive.serving", "create")
TELL = load("hive.serving", "tell")
END = load("hive.serving", "end")
