"""Text from elsewhere on a terminal: escape sequences, C1 controls and bidirectional marks are made harmless.

Problem: names, messages and paths come from a Hub, a repository, a server, Redis or another user, and end on somebody's
screen, by a command or by a log. A terminal obeys what is in them: OSC sets the title or the clipboard, U+009B begins a
sequence as `ESC [` does, U+202E turns the reading direction so that `exe.safetensors` is what it is not. The easy way,
to strip `ESC`, leaves the rest. So nothing but printable characters (`str.isprintable`) passes: in text for people
others become spaces, in JSON for programs they become `\\uXXXX`, which means the same to whoever reads JSON.
"""

from __future__ import annotations

import re
from typing import Final

#: Beyond it JSON writes a character as two halves.
_BASIC_PLANE: Final = 0xFFFF
_NOT_ASCII: Final = re.compile(r"[^ -~\n]")


def plain(text: str) -> str:
    """`text` on one line, with spaces in the place of what is not printable."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)


def plain_lines(text: str, indent: str = "") -> str:
    """The same for a text of several lines, which stay, each behind `indent`: what stands in the text of an exception
    is not to look like a line of the log.
    """
    return "\n".join(indent + plain(line) for line in text.split("\n"))


def plain_json(text: str) -> str:
    """JSON that means the same, and in which what is not printable is written `\\uXXXX`; its line ends stay."""
    return text if text.isprintable() else _NOT_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    number = ord(char)
    if number <= _BASIC_PLANE:
        return f"\\u{number:04x}"
    number -= _BASIC_PLANE + 1
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
