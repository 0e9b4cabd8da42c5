"""Five thousand names, as repositories, servers and people may write them: nothing outside the store is touched."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hive.errors import HiveError
from hive.settings import Settings
from hive.store.catalog import ModelCatalog
from hive.store.inventory import target
from hive.store.layout import safe_name
from hive.wire.refs import RefError, parse_ref, path_problem
from hive.wire.selection import RepoFile
from tests.support.settings import settings_for
from workers.publish import Store
from workers.sources import Plan, PlannedFile
from workers.transfer import Digest, Fetched

pytestmark = pytest.mark.slow

#: Names at a time, and how often: five thousand.
AT_ONCE, TIMES = 50, 100
#: Where a sync costs nothing, if there is such a place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CONTENT = b"GGUF"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40

#: Pieces that have led out of folders, or to what is no file, somewhere.
PIECES = st.sampled_from(
    [
        *(
            "..",
            ".",
            "",
            "/",
            "\\",
            "//",
            "/etc/passwd",
            "canary",
            "../canary",
            "..\\canary",
            "~",
            "$HOME",
            "-rf",
            "C:",
        ),
        *(
            "%2e%2e",
            "%2f",
            "..%2f",
            "..%c0%af",
            "\uff0e\uff0e",
            "\u2215",
            "\u200b",
            "\u202e",
            "a\u0301",
            "\u0130",
        ),
        *("CON", "nul.gguf", "aux", "file:", "::$DATA", ".git", ".GIT", ".git/hooks/post-checkout", ".x.0123.tmp"),
        *("\x00", "\n", "\r\n", "\x1b[31m", "\x7f", "\udcff", "\ud800", " ", ". ", "x" * 300, "models--org--name"),
        *(
            "blobs",
            "refs",
            "snapshots",
            "hive",
            "partial",
            "manifest.json",
            "m-Q4_K_M.gguf",
            "@main",
            ":Q8_0",
            "#",
            "?",
        ),
    ]
)
NAMES = st.one_of(
    st.lists(PIECES | st.text(max_size=8), min_size=1, max_size=6).map("".join),
    st.lists(PIECES | st.text(max_size=8), min_size=1, max_size=6).map("/".join),
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=40),
)


@settings(max_examples=TIMES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(NAMES, min_size=AT_ONCE, max_size=AT_ONCE))
def test_no_name_leads_out_of_the_store(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="hive-", dir=MEMORY) as folder:
        outside = Path(folder)
        (outside / "canary").mkdir()
        (outside / "canary" / "file.gguf").write_bytes(b"untouched")
        (outside / "canary.gguf").write_bytes(b"untouched")
        where = settings_for(outside / "inside")
        before = everything(outside)
        for name, use in zip(names, itertools.cycle(USES)):
            # Refused, by hive or, where hive does not look, by the disk.
            with contextlib.suppress(HiveError, RefError, OSError, ValueError):
                use(where, name)
        assert everything(outside) == before
        check_links(where.store_dir)


def everything(outside: Path) -> dict[str, bytes | None]:
    """Whatever lies beside the store's folder, with its content."""
    inside = outside / "inside"
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(outside.rglob("*"))
        if inside not in path.parents and path != inside
    }


def check_links(store: Path) -> None:
    """No link of the store leads out of it."""
    root = os.path.realpath(store)
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                assert os.path.realpath(path).startswith(root + os.sep), path


def publish(where: Settings, plan: Plan) -> None:
    """What a worker does with fetched bytes."""
    store = Store(where)
    store.check(plan)
    for file in store.missing(plan):
        partial = store.partial(plan, file)
        part = Path(f"{partial}.part")
        part.write_bytes(CONTENT)
        store.publish(plan, file, partial, Fetched(part, len(CONTENT), SHA256, None, 0, 0.0, True))
    store.complete(plan)


def as_repository_file(where: Settings, name: str) -> None:
    """A path in a repository's listing; hive looks at it before anything is fetched, the store must hold without."""
    file = PlannedFile(name, len(CONTENT), Digest("sha256", SHA256), SHA256, cast(Any, None))
    listed = (RepoFile(name, len(CONTENT), "0" * 40, SHA256),)
    ref = parse_ref("hf:org/name")
    plan = Plan(ref, "hf", (file,), name, repo="org/name", revision="main", commit=COMMIT, tree=listed)
    if path_problem(name) is None:
        publish(where, plan)


def as_url_file(where: Settings, name: str) -> None:
    """What a server calls its file."""
    file = PlannedFile(safe_name(name), len(CONTENT), None, None, cast(Any, None))
    publish(where, Plan(parse_ref("https://example.org/x.gguf"), "url", (file,), file.path))


def as_repository(where: Settings, name: str) -> None:
    """What somebody asks for: the first way of writing it that means something is published too."""
    published = False
    for text in (
        name,
        f"hf:{name}",
        f"hf:org/{name}",
        f"hf:org/name@{name}",
        f"hf:org/name/{name}",
        f"https://h/{name}",
    ):
        with contextlib.suppress(RefError):
            ref = parse_ref(text)
            ModelCatalog(where).find(ref)
            if ref.url is None and not published:
                published = True
                file = PlannedFile("m.gguf", len(CONTENT), Digest("sha256", SHA256), SHA256, cast(Any, None))
                publish(where, Plan(ref, "hf", (file,), "m.gguf", repo=ref.repo, revision=ref.rev, commit=COMMIT))


def as_model_id(where: Settings, name: str) -> None:
    """What somebody looks at, and deletes."""
    for text in (name, f"org/{name}", f"org/name@{name}", f"url/{name}", f"url/0123456789abcdef/{name}"):
        with contextlib.suppress(HiveError):
            target(where, text)
        with contextlib.suppress(HiveError):
            ModelCatalog(where).delete(text)


USES = (as_repository_file, as_url_file, as_repository, as_model_id)
