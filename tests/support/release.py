"""An earlier release's code, for processes of it beside those of this one."""

from __future__ import annotations

import tarfile
from pathlib import Path

#: Where `hive-VERSION.tar.xz` lie: the packages of that release, as `git archive REV hive workers` gives them.
ARCHIVES = Path(__file__).parent.parent / "upgrade"
#: Every release whose users may upgrade to this one, the latest last.
RELEASES = tuple(
    sorted(
        (path.name.removeprefix("hive-").removesuffix(".tar.xz") for path in ARCHIVES.glob("hive-*.tar.xz")),
        key=lambda version: [int(part) for part in version.split(".")],
    )
)


def environment_of(version: str, folder: Path) -> dict[str, str]:
    """What a process needs in its environment to run that release's code; unpacked below `folder`, once.

    The packages that it runs on are those of this environment: what it asked for is within what this one asks for.
    """
    place = folder / f"hive-{version}"
    if not place.exists():
        with tarfile.open(ARCHIVES / f"hive-{version}.tar.xz") as archive:
            archive.extractall(place, filter="data")
    # The current folder, where this code lies, would come first.
    return {"PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}
