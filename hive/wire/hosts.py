"""Internationalised host names (IDNA): the ASCII form of a host that somebody wrote in another script.

Problem: a host with umlauts or Chinese letters is one to people and to browsers, and no name to DNS. The easy way,
whatever a library makes of it, turns full-width digits into `127.0.0.1` and lets `huggingface.co` be written with a
Cyrillic letter. So letters are encoded, and what is another spelling of an ASCII name, or mixes scripts in one label as
look-alikes do, is refused. What passes here is any server: only the Hub's own name is the Hub.
"""

from __future__ import annotations

import re
from typing import Final

#: Scripts whose letters look like Latin ones: beside Latin in one label they are a disguise.
_LOOK_ALIKES: Final = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "MATHEMATICAL"})
#: Letters that the two versions of IDNA encode differently: one more way to read one name as two.
_DEVIATIONS: Final = frozenset("\u00df\u03c2\u200c\u200d")
#: Characters behind the `xn--` of a label in DNS: it has one at least for each of the name, and to encode takes their
#: square.
MAX_ENCODED_CHARS: Final = 59


def to_ascii_host(host: str) -> str:
    """The host as DNS has it; one in ASCII comes back as it is.

    Raises:
        ValueError: it is none, or not clearly one; the text says what to do.
    """
    if host.isascii():
        return host
    # Here: it takes milliseconds, and most hosts do without.
    import unicodedata
    from encodings import idna

    problem = f"The host {host[:80]!r} cannot be taken as it is written"
    plain = unicodedata.normalize("NFC", host).lower()
    if unicodedata.normalize("NFKC", plain) != plain or "\u3002" in plain:
        raise ValueError(f"{problem}: it has letters, digits or dots in another form. Write them plainly.")
    labels = plain.split(".")
    if any(len(label) > MAX_ENCODED_CHARS for label in labels if not label.isascii()):
        raise ValueError(f"{problem}: it is no host name.")
    for label in labels:
        scripts = {unicodedata.name(char, "").partition(" ")[0] for char in label if char.isalpha()}
        if _DEVIATIONS & set(label) or ("LATIN" in scripts and scripts & _LOOK_ALIKES):
            raise ValueError(f"{problem}: it has letters that look like others. Write the name that DNS has (xn--...).")
        if any(not (char.isalnum() or char == "-" or unicodedata.category(char)[0] == "M") for char in label):
            raise ValueError(f"{problem}: not all of it are letters and digits.")
    try:
        encoded = [idna.ToASCII(label).decode("ascii") if not label.isascii() else label for label in labels]
    except UnicodeError:
        raise ValueError(f"{problem}: it is no host name.") from None
    if any(
        not label.isascii() and not re.fullmatch(rf"xn--[a-z0-9-]{{1,{MAX_ENCODED_CHARS}}}", code)
        for label, code in zip(labels, encoded, strict=True)
    ):
        raise ValueError(f"{problem}: it is another spelling of an ASCII name. Write that.")
    return ".".join(encoded)
