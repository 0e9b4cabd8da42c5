"""The Lua scripts that change a download's record: each changes it, and publishes the change, in one step.

Problem: between a client's read and its subscription, between a worker's write and its publish, a process may die;
and redis-py sends a command again when its reply was lost. Two commands in a row (HSET, then PUBLISH) lose the
second; MULTI cannot look before it writes. So every change is one script that (1) checks, (2) writes, (3) publishes
the same, and is safe to repeat.

The order is made by the version `(fence, seq)`. Whoever takes hold of a download (claim, release, an end from
outside) takes a new fence, `max(now in ms, stored + 1)`, so that it also grows over a Redis that lost its data; `seq`
counts up inside. Hence a caller that shows the fence it has read has proven that nothing changed hands since, and a
worker whose fence is not the stored one is a zombie and is refused.

Time is Redis' own. State machine: queued -> running -> complete | failed | cancelled; running -> queued, and running,
queued -> paused -> queued (release); see docs/architecture.md.

What all processes count together (docs/metrics.md) is counted here too: a count made beside the change would be lost
with the process that was to make it, or made twice when a call is repeated.
"""

from __future__ import annotations

from typing import Final

from hive.redis.lua import load

#: Upper ends of the classes of the time that downloads wait for a worker, in seconds; prelude.lua has them too.
QUEUE_WAIT_CLASSES_S: Final = (1, 5, 30, 120, 600, 3600)

CREATE = load("hive.downloads", "create")
CLAIM = load("hive.downloads", "claim")
PUBLISH = load("hive.downloads", "publish")
QUOTA = load("hive.downloads", "quota")
RENEW = load("hive.downloads", "renew")
RELEASE = load("hive.downloads", "release")
FINISH = load("hive.downloads", "finish")
CONTROL = load("hive.downloads", "control")
LEAVE = load("hive.downloads", "leave")
LEND = load("hive.downloads", "lend")
PRIORITY = load("hive.downloads", "priority")
MOVE = load("hive.downloads", "move")
RESOLVED = load("hive.downloads", "resolved")
RESTORE = load("hive.downloads", "restore")
SET_ASIDE = load("hive.downloads", "set_aside")
REINDEX = load("hive.downloads", "reindex")
EXPIRED = load("hive.downloads", "expired")
TAKE_FILE = load("hive.downloads", "take_file")
UPDATE_MEMBER = load("hive.downloads", "update_member")
DELETE_IF_EQUAL = load("hive.downloads", "delete_if_equal")
