"""What a person wants pulled: references as they were typed, or read from a list."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import click

from hive.cli.errors import USAGE, CliError
from hive.cli.format import plain
from hive.settings import Settings
from hive.wire.refs import ModelRef, RefError, parse_ref, with_revision
from hive.wire.spec import DownloadSpec

#: Characters of the longest list of references that is read.
MAX_LIST_CHARS: Final = 1_000_000
_COMMENT = re.compile(r"(?:^|\s)#.*")


class Wanted(NamedTuple):
    """A model to pull: the reference, what to call it, and how it is to come."""

    text: str
    ref: ModelRef
    name: str
    selection: dict[str, Any]

    @classmethod
    def read(cls, text: str, selection: dict[str, Any]) -> Wanted:
        """What a person typed.

        Raises:
            CliError: it is no reference.
        """
        try:
            ref = with_revision(parse_ref(text, Settings.from_env().hf_endpoint), selection["revision"])
        except RefError as error:
            raise CliError(plain(str(error)), code="INVALID_MODEL_REF", exit_code=USAGE) from None
        return cls(text, ref, ref.display, selection)

    def spec(self, token: str | None) -> DownloadSpec:
        """What a download in this process needs to know."""
        known = {name: value for name, value in self.selection.items() if name in DownloadSpec._fields}
        return DownloadSpec(ref=self.ref, hf_token=token, **known)


def read_list(path: str) -> list[str]:
    """The references in a file, one a line; what stands behind a `#` at the start or after a blank is a comment.

    Raises:
        CliError: it cannot be read, or is too long.
    """
    try:
        with click.open_file(path) as file:
            text = file.read(MAX_LIST_CHARS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CliError(f"The list cannot be read from {path}: {reason}.", exit_code=USAGE) from None
    if len(text) > MAX_LIST_CHARS:
        raise CliError(f"The list is longer than {MAX_LIST_CHARS} characters.", exit_code=USAGE)
    lines = (_COMMENT.sub("", line).strip() for line in text.splitlines())
    return [line for line in lines if line]
