"""UTF-8 mode of Python (PEP 540) for hive's programs, whatever the locale says.

Problem: the names of models are Unicode, and Python turns them into the names of files in the encoding of the locale.
In one without those letters (LC_ALL of an older system, PYTHONUTF8=0) a name that a repository has can be neither
written nor found again, and each process may be started in another locale. The easy way, encoding at each call that
takes a path, is some hundreds of calls, and those of libraries. And the mode can be chosen only when an interpreter
starts. So a program that finds itself without it starts anew with it, once, and what it starts inherits it.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Mapping


def ensure_utf8() -> None:
    """Give back where names of files are UTF-8; else this process begins again, with the same arguments, where they
    are. To be called before anything is opened. Standard streams keep their encoding.
    """
    if not sys.flags.utf8_mode and not _is_utf8(sys.getfilesystemencoding()) and sys.executable:
        shown = getattr(sys.stdout, "encoding", None)
        environ = utf8_environment(os.environ, shown)
        # Both: `python -I` reads no variables, and children get no options.
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], environ)  # noqa: S606


def utf8_environment(environ: Mapping[str, str], shown: str | None) -> dict[str, str]:
    """The environment of a process in UTF-8 mode. `shown`: the encoding of what the terminal shows; one with letters of
    its own stays, for the terminal knows no other.
    """
    changed = {**environ, "PYTHONUTF8": "1"}
    if shown and not _is_utf8(shown) and codecs.lookup(shown).name != "ascii":
        changed.setdefault("PYTHONIOENCODING", shown)
    return changed


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"
