"""How hive shows an LLM worker that it is hive: a token that both derive from the key in HIVE_HOME.

Problem: a worker's own address must not let in whom hive's API keeps out. The easy way, a random token in the worker's
record, gives it to whoever reads Redis. Both sides have the secret key's file, so each makes the same token of it.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Final

from hive.key_file import read_key_file

#: The header that has it.
TOKEN_HEADER: Final = b"x-hive-worker-token"
_LABEL: Final = b"hive llm worker\0"


def worker_token(key_file: Path, worker_id: str) -> str:
    """The token for one worker; "" where this machine has no secret key."""
    try:
        key = read_key_file(key_file)
    except OSError:
        return ""
    return hmac.digest(key, _LABEL + worker_id.encode(), hashlib.sha256).hex() if key else ""
