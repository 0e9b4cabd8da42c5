"""Challenge and response: a server shows that it has the key of a HIVE_HOME, without showing the key.

Problem: a command hands a token to what listens on this machine, and anybody on this machine may listen. The easy way,
to look for hive's words in the answer, is fooled by whoever can repeat them. So the command sends a fresh nonce, and
the server answers with an HMAC of it under the key that lies in HIVE_HOME, mode 0600. The address at which the server
was reached is part of it: a listener that hands the nonce on to the real hive gets an answer for another address.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

#: A nonce of a client: enough of it to be asked once only.
NONCE: Final = re.compile(r"[0-9A-Za-z_-]{16,128}")

_LABEL: Final = b"hive server proof\0"


def proof(key: bytes, nonce: str, host: str, port: int) -> str:
    """The answer of the server that has this key and was reached at this numeric address."""
    return hmac.digest(key, _LABEL + f"{nonce}\0{host}\0{port}".encode(), hashlib.sha256).hex()


def is_proof(text: str, key: bytes, nonce: str, host: str, port: int) -> bool:
    """Whether this is that answer; compared in constant time. Never without a key."""
    return bool(key) and hmac.compare_digest(text.encode(), proof(key, nonce, host, port).encode())
