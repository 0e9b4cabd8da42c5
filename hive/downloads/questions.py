"""A question to a resolver whose answer is waited for, and which is forgotten when nobody waits any more.

Problem: a resolver answers one question after the other, and who asked may have gone meanwhile. Were the question left
where it lies, whoever asks and goes, again and again, would have the Hub asked as often, and all others would wait
behind that. A resolver that finds no question under a call takes the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from hive.downloads.resolutions import AccessQuestion, Question, Resolutions
from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread


class Questions:
    """Asks, and waits. Its method belongs to the event loop."""

    def __init__(self, commands: CommandThread, resolutions: Resolutions) -> None:
        self._commands = commands
        self._resolutions = resolutions

    async def answer(self, question: Question | AccessQuestion, timeout_s: float, poll_s: float) -> bytes | None:
        """The answer as it was given; None where no resolver is there, or none has answered in time.

        Raises:
            RedisUnavailable: Redis is away.
        """
        question_id = await self._commands.run(self._resolutions.ask, question)
        if question_id is None:
            return None
        try:
            end_s = time.monotonic() + timeout_s
            while time.monotonic() < end_s:
                if (found := await self._commands.run(self._resolutions.answer, question_id)) is not None:
                    return found
                await asyncio.sleep(poll_s)
            return None
        finally:
            with contextlib.suppress(RedisUnavailable):  # it expires
                await self._commands.run(self._resolutions.forget, question_id)
