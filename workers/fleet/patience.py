"""Calls to Redis that are made again while it is away: a transfer outlives that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

from hive.redis.errors import is_redis_error
from workers.transfer import Control

T = TypeVar("T")

#: Seconds between two tries to reach a Redis that is away.
REDIS_RETRY_S = 0.3


def until_redis_answers(call: Callable[[], T], control: Control) -> T:
    """The result of a call that is safe to repeat, made again while Redis is away: a transfer outlives that.

    Raises:
        HiveError: what `control` was cancelled with meanwhile.
    """
    while True:
        try:
            return call()
        except RedisError as error:
            if not is_redis_error(error):
                raise
        control.sleep(REDIS_RETRY_S)
