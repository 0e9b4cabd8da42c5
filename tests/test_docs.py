"""What a person can set, call or run stands in the documentation, and what stands there exists."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from hive.api.app import ROUTES
from hive.cli import cli
from hive.environment import OWN_NAMES, SECRET_FILES
from hive.error_codes import all_errors
from hive.errors import HiveError
from hive.settings import Settings
from hive.wire.api import PROGRESS_PATH, DownloadRequest
from hive.wire.events import Complete, Downloading, Error

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text()


SETTINGS = {field.encode_name: field for field in msgspec.structs.fields(Settings)}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`{name}`" in text("settings.md")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"`((?:HIVE|HF|REDIS|NO|HTTPS?|REQUESTS)_[A-Z_]+)`", text("settings.md")))
    assert named <= set(SETTINGS) | set(OWN_NAMES.values()) | set(SECRET_FILES.values())


@pytest.mark.parametrize(
    "name", [n for n, f in SETTINGS.items() if isinstance(f.default, int | float) and not isinstance(f.default, bool)]
)
def test_documented_numbers_are_the_defaults(name: str) -> None:
    row = next(line for line in text("settings.md").splitlines() if line.startswith(f"| `{name}`"))
    assert f"| {SETTINGS[name].default:g} |".replace("e+0", "e") in row or f"| {SETTINGS[name].default} |" in row


METHODS = [
    (method, route.path.replace("{id:path}", "{id}")) for route in ROUTES for method in sorted(route.methods or ())
]


@pytest.mark.parametrize("line", [f"{method} {path}" for method, path in METHODS if method != "HEAD"])
def test_every_route_is_documented(line: str) -> None:
    assert f"`{line}" in text("api.md")


def test_the_scope_of_every_route_is_documented_as_it_is() -> None:
    said = dict(re.findall(r"^\| `(\w+ /[^`]*)` \| `?(\w+)`?", text("auth.md"), re.MULTILINE))
    needs = {
        f"{method} {route.path.replace('{id:path}', '{id}')}": route.needs or "open"
        for route in ROUTES
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert said == needs


def test_the_stream_is_documented() -> None:
    assert f"`GET {PROGRESS_PATH}?id=`" in text("api.md")


@pytest.mark.parametrize("error", [e for e in all_errors() if e is not HiveError], ids=lambda e: e.__name__)
def test_every_error_code_is_documented_with_its_status(error: type[HiveError]) -> None:
    assert f"| {error.code} | {error.status} |" in text("api.md")


def test_every_error_code_has_a_way_out() -> None:
    """In the page for people whose hive does not do what they want."""
    said = set(re.findall(r"`([A-Z_]+)`", text("troubleshooting.md")))
    assert {error.code for error in all_errors()} <= said


@pytest.mark.parametrize("kind", [DownloadRequest, Downloading, Complete, Error], ids=lambda k: k.__name__)
def test_every_field_is_documented(kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        assert f"`{field.encode_name}`" in text("api.md"), field.encode_name


def test_every_command_is_documented() -> None:
    for name in cli.list_commands(None):  # type: ignore[arg-type]
        assert f"`hive {name}" in text("cli.md")


#: How a page begins that stands under this heading of the index.
READERS = {
    "Use it": "For people who use hive.",
    "Run it for a team": "For people who run hive for a team.",
    "Program against it": "For people who write programs against hive.",
    "Work on it": "For people who work on hive.",
}


def index() -> dict[str, str]:
    """The heading of docs/README.md under which each page stands."""
    sections = [part.split("\n", 1) for part in text("README.md").split("\n## ")[1:]]
    return {page: name for name, body in sections for page in re.findall(r"^- \[[^\]]+\]\(([\w.-]+\.md)\)", body, re.M)}


def test_every_page_is_in_the_index_once_and_the_readme_leads_there() -> None:
    pages = re.findall(r"^- \[[^\]]+\]\(([\w.-]+\.md)\)", text("README.md"), re.MULTILINE)
    assert sorted(pages) == sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md")
    assert set(index().values()) == set(READERS)
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md"))
def test_every_page_says_first_for_whom_it_is(page: str) -> None:
    title, reader = text(page).split("\n\n", 2)[:2]
    assert title.startswith("# ")
    assert reader == READERS[index()[page]]


def slugs(document: Path) -> set[str]:
    """The anchors of a document's headings, as the hosts of repositories make them."""
    outside_code = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_anchor_of_a_link_is_a_heading() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            other = document.parent / target if target else document
            assert anchor in slugs(other), f"{document.name} links {target}#{anchor}"


def test_every_message_that_troubleshooting_quotes_is_one_of_the_code() -> None:
    section = text("troubleshooting.md").partition("## What a team meets most")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(quoted) == 20
    sources = [path.read_text() for folder in ("hive", "workers") for path in (ROOT / folder).rglob("*.py")]
    code = re.sub(r"\s+", " ", " ".join(sources))
    assert [message for message in quoted if message not in code] == []


def test_every_script_has_its_line() -> None:
    listed = (ROOT / "scripts" / "README.md").read_text()
    for script in (ROOT / "scripts").iterdir():
        if script.is_file() and script.suffix != ".md":
            assert f"`scripts/{script.name}`" in listed


DOCUMENTS = [*DOCS.glob("*.md"), *ROOT.glob("*.md"), ROOT / "tests" / "README.md", ROOT / "scripts" / "README.md"]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "CHANGELOG.md"], ids=lambda d: d.name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    """Paths of code are written from the root, as `hive/streams/stream.py`; `hive/partial` is a folder of the store."""
    said = document.read_text()
    named = set(re.findall(r"(?<![\w./-])(?!hive/partial)((?:hive|workers|tests|scripts|docs)/[\w/.-]*[\w/])", said))
    assert [path for path in sorted(named) if not (ROOT / path).exists() and not (ROOT / f"{path}.py").exists()] == []


def test_every_link_of_a_document_leads_somewhere() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
        assert [link for link in links if not (document.parent / link).exists()] == [], document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_row_of_a_table_has_the_cells_of_its_head(document: Path) -> None:
    outside_code = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", outside_code, re.MULTILINE):
        head, *rows = table.splitlines()
        assert [row for row in rows if cells(row) != cells(head)] == []


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))


@pytest.mark.parametrize("page", ["compose.md", "systemd.md"])
def test_where_all_of_it_is_upgraded_workers_come_first(page: str) -> None:
    """They open what servers seal, and older ones do not (tests/upgrade)."""
    blocks = re.findall(r"(?:^    .*\n)+", text(page), re.MULTILINE)
    (commands,) = (block for block in blocks if "git pull" in block or "ln -sfn" in block)
    assert 0 < commands.index("worker") < commands.index("api")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_unit_that_a_document_starts_exists(document: Path) -> None:
    commands = re.findall(r"^    .*systemctl (?:start|restart|enable|stop).*$", document.read_text(), re.MULTILINE)
    units = {unit for line in commands for unit in re.findall(r"\bhive(?:-\w+)?@?", line.partition("systemctl")[2])}
    assert [unit for unit in sorted(units) if not (ROOT / "deploy" / "systemd" / f"{unit}.service").exists()] == []


def test_every_test_that_the_security_page_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 80
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists() or (name and not re.search(rf"def {name}\(", (ROOT / path).read_text()))
    ]
    assert missing == []


def test_every_threat_and_finding_has_a_rule_and_a_test_or_says_that_it_is_open() -> None:
    tables = (ROOT / "SECURITY.md").read_text().partition("## Threats")[2]
    rows = [line.strip("| \n").split(" | ") for line in tables.splitlines() if line.startswith("| ")]
    findings = [row for row in rows if re.fullmatch(r"S\d+", row[0])]
    assert [row[0] for row in findings] == [f"S{number}" for number in range(1, 37)]
    for row in rows:
        if row[0] in ("threat", "found", "open"):
            continue
        assert "`tests/" in row[-1] or any(cell.startswith("open:") for cell in row), row[0]
