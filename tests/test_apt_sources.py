"""Where images of Debian's packages come from: the mirror of this machine, in either form of apt's sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.apt_sources import debian_mirror

LINES = """# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb https://packages.example/tool tool-bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] https://mirror.example/debian/ bookworm main contrib  # ours
"""
STANZAS = """# The distribution
Types: deb deb-src
# a snapshot
URIs: https://mirror.example/debian
  https://second.example/debian
Suites: trixie trixie-updates
Components: main

Types: deb
URIs: https://mirror.example/debian-security
Suites: trixie-security
Components: main

Types: deb
URIs: https://switched-off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: https://tools.example/linux/debian
Suites: bookworm
Components: stable
"""


def write(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        (folder / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return folder


def test_it_is_found_in_lines_behind_options_and_before_a_comment(tmp_path: Path) -> None:
    (write(tmp_path) / "sources.list").write_text(LINES)
    assert debian_mirror("bookworm", tmp_path) == "https://mirror.example/debian/"


def test_it_is_found_in_stanzas_also_where_the_machine_has_another_suite(tmp_path: Path) -> None:
    assert debian_mirror("bookworm", write(tmp_path, debian_sources=STANZAS)) == "https://mirror.example/debian"


def test_one_that_is_named_with_the_suite_comes_first(tmp_path: Path) -> None:
    other = "deb http://older.example/debian bookworm main\n"
    folder = write(tmp_path, debian_sources=STANZAS, older_list=other)
    assert debian_mirror("bookworm", folder) == "http://older.example/debian"


@pytest.mark.parametrize(
    "line",
    ["", "deb https://packages.example/tool nodistro main", "deb mirror+file:/etc/apt/mirrors bookworm main"],
    ids=["nothing", "no Debian", "a list of mirrors"],
)
def test_where_there_is_none_it_is_said_with_what_to_do(tmp_path: Path, line: str) -> None:
    with pytest.raises(RuntimeError, match=r"No mirror of Debian .* Add a source with `bookworm`"):
        debian_mirror("bookworm", write(tmp_path, some_list=line + "\n"))


def test_a_machine_without_apt_has_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No mirror of Debian"):
        debian_mirror("bookworm", tmp_path / "nothing")
