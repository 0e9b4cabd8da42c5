"""What this code calls itself: the release that it is, or the next one while it is none."""

from __future__ import annotations

import re
from pathlib import Path

from hive.version import VERSION

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_code_that_is_no_release_has_the_name_of_none() -> None:
    unreleased = CHANGELOG.partition("## [Unreleased]")[2].partition("\n## ")[0].strip()
    names = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", CHANGELOG, re.MULTILINE)
    assert names == sorted(names, key=numbers, reverse=True)
    if not unreleased:
        assert names[0] == VERSION
    else:
        number, dev, _ = VERSION.partition(".dev0")
        assert dev, "what is listed as unreleased is in no release"
        assert numbers(number) > numbers(names[0])
