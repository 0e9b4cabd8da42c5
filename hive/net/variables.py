"""A variable of the environment as people write it: what is around its value, and what is in a path."""

from __future__ import annotations

import re
from collections.abc import Mapping


def bare(value: str) -> str:
    """A value without the blanks, the carriage return and the pair of quotes around it: Windows and `docker run
    --env-file` leave them there, where a shell, compose and systemd do not.
    """
    value = value.strip()
    return value[1:-1].strip() if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def expanded(text: str, environ: Mapping[str, str]) -> str:
    """A path with its leading `~` and its `$VAR`s read, as far as `environ` knows them."""
    if text == "~" or text.startswith("~/"):
        text = (environ.get("HOME") or "~") + text[1:]
    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda found: environ.get(found[1] or found[2], found[0]), text)
