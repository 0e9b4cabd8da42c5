"""The JSON of the API is byte for byte what it was, the order of its fields too: programs have been written for it."""

from __future__ import annotations

from pathlib import Path

from hive.redis.client import RedisClient
from hive.settings import Settings
from tests.support.api_samples import answers, lay_out

#: What the version before the schema had types answered, recorded at its server. Since then errors have got a
#: request_id, and OpenAI's fields, and a queued download its place in the queue.
RECORDED = Path(__file__).with_name("samples.txt")


def test_every_answer_has_the_bytes_that_were_recorded(api: str, store: RedisClient, settings: Settings) -> None:
    lay_out(store, settings)
    found = "\n".join(answers(api, settings.store_dir))
    assert found.splitlines() == RECORDED.read_text().splitlines()
