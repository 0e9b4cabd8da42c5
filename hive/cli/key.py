"""`hive key`: make, list and revoke API keys.

It works on the key file itself, so it needs no server, and whoever may run it may read that file. Servers see a change
within a second or two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import click

from hive.cli.errors import USAGE, CliError, say_hints
from hive.cli.format import age, duration
from hive.cli.output import echo, echo_json, echo_value
from hive.cli.table import Column, print_table
from hive.settings import Settings

if TYPE_CHECKING:
    from hive.auth.keys import ApiKey, KeyFile
    from hive.auth.scopes import Scope

_COLUMNS = (
    Column("ID"),
    Column("NAME", shrinks="end"),
    Column("SCOPES"),
    Column("OWNER", shrinks="end"),
    Column("STATE"),
    Column("EXPIRES"),
    Column("LAST USE"),
)


@click.group(short_help="Make, list and revoke API keys.")
def key() -> None:
    """Make, list and revoke API keys.

    The first key turns keys on: from then on each request to a server of this key file needs one. docs/auth.md has it
    all.
    """


@key.command(short_help="Make a key and print it, once.")
@click.option("--name", required=True, metavar="NAME", help="What it is for.")
@click.option("--scopes", required=True, metavar="SCOPES", help="What it may do: read,pull,run or admin.")
@click.option(
    "--owner", default="", metavar="OWNER", help="Keys of one owner share their downloads.  [default: itself]"
)
@click.option("--expires", metavar="DURATION", help="How long it lives: 90d, 12h.  [default: until it is revoked]")
@click.option("--hub-form", is_flag=True, help="It looks like a token of the Hub (hf_...): llama.cpp sends no other.")
def new(name: str, scopes: str, owner: str, expires: str | None, hub_form: bool) -> None:
    """Make a key and print it to standard output. It is kept as a digest, so this is the only time that it is shown.

    Scopes are read (lists, watching), pull (asking for models, and steering those downloads), run (running models) and
    admin (all of that, everybody's downloads, deleting, maintenance, settings).
    """
    from hive.cli.gc import seconds

    settings, file = Settings.from_env(), _file()
    first = not file.read().keys
    expires_in_s = None if expires is None else seconds(expires)
    made = file.add(name, _scopes(scopes), owner=owner, expires_in_s=expires_in_s, in_hub_form=hub_form)
    _audit(settings, "key new", made.key)
    if first:
        say_hints("Keys are on now: every request needs one, in all servers of this key file.")
    _keep_up_running(settings, file)
    say_hints(f"The key {made.key.id} is shown this once:")
    echo_value(made.text)


@key.command(short_help="List the keys.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array; times are Unix seconds.")
def ls(as_json: bool) -> None:
    """List the keys: also those that were revoked or have expired in the last month. What they are is not known."""
    keys = _file().read().keys
    if as_json:
        echo_json([_shown(key) for key in keys], indented=True)
    else:
        print_table(_COLUMNS, [_row(key) for key in keys])


@key.command(short_help="End a key, for good.")
@click.argument("key_id", metavar="ID")
def revoke(key_id: str) -> None:
    """End a key: servers refuse it within two seconds, and end its streams within ten.

    ID is the one that `hive key ls` lists: the eight characters behind `hive_` in the key.
    """
    from hive.auth.keys import KEY_ID, id_of

    if known := id_of(key_id):
        raise CliError(
            "That is the whole key, which others on this machine can see in the list of processes.",
            f"hive key revoke {known}",
            exit_code=USAGE,
        )
    key_id = key_id.removeprefix("key:")
    if not KEY_ID.fullmatch(key_id):
        raise CliError("That is no id of a key.", "hive key ls", exit_code=USAGE)
    settings = Settings.from_env()
    revoked = _file().revoke(key_id)
    _audit(settings, "key revoke", revoked)
    say_hints(f"The key {revoked.id} ({revoked.name}) is revoked.")


def _file() -> KeyFile:
    from hive.auth.keys import KeyFile

    return KeyFile(Settings.from_env().api_keys_path)


def _audit(settings: Settings, command: str, key: ApiKey) -> None:
    """The line of the audit log for a change of this user's, who needs no key to make it: to the log's file, else to
    standard error where that is no terminal. The change is made; that it cannot be told does not undo it.
    """
    from hive.logs import JsonFormatter
    from hive.processes.log_file import RotatedFile

    what = {"user": f"uid:{os.getuid()}", "command": command, "id": key.id, "scopes": ",".join(key.scopes)}
    told = {"name": "hive.audit", "levelno": logging.INFO, "levelname": "INFO", "msg": "allowed", "fields": what}
    line = JsonFormatter().format(logging.makeLogRecord(told))
    if (path := settings.audit_log_path) is not None:
        try:
            with contextlib.closing(RotatedFile(path)) as file:
                os.write(file.descriptor(), f"{line}\n".encode())
            return
        except OSError as error:
            say_hints(f"HIVE_AUDIT_LOG cannot be written: {error.strerror or error}: {path}.")
    if not sys.stderr.isatty():  # who sits there has typed it
        echo(line, err=True)


def _keep_up_running(settings: Settings, file: KeyFile) -> None:
    """A `hive up` that was started before there were keys: its own command line needs one from now on."""
    from hive.auth.local_key import ensure_local_key
    from hive.processes.instance_lock import holder_of

    if holder_of(settings.home_dir) is not None:
        ensure_local_key(settings.local_key_path, file)


def _scopes(text: str) -> list[Scope]:
    from hive.auth.scopes import SCOPES

    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found or not set(found) <= set(SCOPES):
        raise CliError(f"Scopes are {', '.join(SCOPES)}, separated by commas.", "--scopes read,pull", exit_code=USAGE)
    return cast("list[Scope]", found)


def _shown(key: ApiKey) -> dict[str, object]:
    """A key for a program, without its digest."""
    return {
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "owner": key.owner,
        "state": key.state(time.time()),
        "created_at": key.created_s,
        "expires_at": key.expires_s,
        "revoked_at": key.revoked_s,
        "used_at": key.used_s,
    }


def _row(key: ApiKey) -> list[str]:
    now_s = time.time()
    expires = "never" if key.expires_s is None else datetime.fromtimestamp(key.expires_s, UTC).strftime("%Y-%m-%d")
    if key.expires_s is not None and 0 < key.expires_s - now_s < 86_400:
        expires = f"in {duration(key.expires_s - now_s)}"
    return [key.id, key.name, ",".join(key.scopes), key.owner, key.state(now_s), expires, age(key.used_s)]
