"""The Hub's answers that another try does not change are final, and say what to do; mirrors that are not huggingface.co
are taken as they are.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from hive.errors import (
    DownloadError,
    FileNotFound,
    HiveError,
    HubRefused,
    HubUnavailable,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
)
from hive.settings import Settings
from hive.store.restricted import ProbeFile
from tests.hub import DEFAULT_TOKEN, HubServer, SyntheticFile, faults
from tests.hub.content import Bytes
from tests.hub.messages import Reply, Request, whole
from tests.support.plans import plan_for
from tests.support.settings import settings_for
from workers.fetch import network_for
from workers.sources.hub_client import HubClient
from workers.transfer import Control, Limits, fetch

API = "/api/models/org/name/revision/*"
TREE = "/api/models/org/name/tree/*"
WEIGHTS = "model.safetensors"
MIB = 1 << 20


@pytest.fixture
def settings(tmp_path: Path, hub: HubServer) -> Settings:
    hub.create("org/name", {"README.md": b"# tiny\n", WEIGHTS: SyntheticFile(20 * MIB, 3)})
    return settings_for(tmp_path, HF_ENDPOINT=hub.endpoint)


def bring(settings: Settings, tmp_path: Path, token: str | None = None) -> list[bool]:
    """Fetch all files of the model as a worker would; whether each was verified."""
    plan = plan_for(settings, "org/name", token=token)
    limits = Limits(attempts_max=2, backoff_max_s=0.01)
    return [
        fetch(file.source, tmp_path / f"file{number}", control=Control(), limits=limits).verified
        for number, file in enumerate(plan.files)
    ]


def raw_deflate(data: bytes) -> bytes:
    """What some servers mean by `deflate`: without zlib's header."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


class Packed(faults.Fault):
    """Answers with these bytes, packed as `encoding` says."""

    def __init__(self, packed: bytes, encoding: str = "gzip") -> None:
        self._packed = packed
        self._encoding = encoding

    def before(self, request: Request) -> Reply:
        headers = [("Content-Type", "application/json"), ("Content-Encoding", self._encoding)]
        return Reply(200, headers, whole(Bytes(self._packed)))


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (faults.status(400, body="no"), HubRefused, "400"),
        (faults.status(403), ModelAccessDenied, "refuses access"),
        (faults.status(404), ModelNotFound, "no org/name"),
        (faults.status(405), HubRefused, "405"),
        (faults.status(409), HubRefused, "409"),
        (faults.status(410), ModelNotFound, "no org/name"),
        (faults.status(418), HubRefused, "418"),
        (faults.status(451), ModelAccessDenied, "disabled"),
        (faults.status(501), HubRefused, "501"),
        (faults.status(505), HubRefused, "505"),
        (faults.status(511), HubRefused, "511"),
        (faults.status(302), HubRefused, "without saying where"),
        (faults.redirect_to("//1@"), HubRefused, "without a host"),
        (faults.redirect_to("https://hub.test:99999/"), HubRefused, "a port that is none"),
        (faults.status(304), HubRefused, "304"),
        (faults.status(307, {"Location": "ftp://hub.example/x"}), HubRefused, "neither http nor https"),
        (faults.status(307, {"Location": "http://[::1/x"}), HubRefused, "is none|not a Hub"),
        (faults.status(200, {"Content-Type": "text/html"}, "<html>sign in</html>"), HubRefused, "not a Hub"),
        (faults.status(200, {"Content-Type": "application/json"}, "{"), HubRefused, "not a Hub"),
        (faults.status(200, {"Content-Type": "application/json"}, "[1, 2]"), HubRefused, "not a Hub"),
        (faults.status(200, {"Content-Type": "application/json"}, "null"), HubRefused, "not a Hub"),
        (faults.status(200, {"Content-Type": "application/json"}, "[" * 100_000), HubRefused, "not a Hub"),
        (faults.status(200, {"Content-Type": "application/json"}, '{"id": "org/name"}'), HubRefused, "no commit"),
        (faults.status(200, {"Content-Encoding": "br"}, "x"), HubRefused, r"compressed reply \(br\)"),
        (faults.status(200, {"Content-Encoding": "gzip"}, "not packed"), HubRefused, "cannot be unpacked"),
    ],
)
def test_an_answer_that_cannot_change_is_final_and_named(
    hub: HubServer, settings: Settings, fault: faults.Fault, kind: type[HiveError], says: str
) -> None:
    hub.faults.add(fault, API)
    with pytest.raises(kind, match=says) as caught:
        plan_for(settings, "org/name")
    assert type(caught.value) is not HubUnavailable, "it would be asked again"
    assert (
        "token" not in caught.value.message
        or "no token was sent" in caught.value.message
        or "may help" in str(caught.value)
    )


@pytest.mark.parametrize("status", [408, 425, 500, 502, 503, 504])
def test_an_answer_that_may_pass_is_not_final(hub: HubServer, settings: Settings, status: int) -> None:
    hub.faults.add(faults.status(status), API)
    with pytest.raises(HubUnavailable) as caught:
        plan_for(settings, "org/name")
    assert not isinstance(caught.value, HubRefused)


def test_redirects_in_a_circle_are_final(hub: HubServer, settings: Settings) -> None:
    hub.redirect("/api/models/org/name/revision/main", "/api/models/org/name/revision/main", 307)
    with pytest.raises(HubRefused, match="redirects more than"):
        plan_for(settings, "org/name")


@pytest.mark.parametrize("token", ["hf_with\nline", "hf_über", "two words", "x" * 5000])
def test_a_token_that_no_header_can_carry_is_the_tokens_fault(hub: HubServer, settings: Settings, token: str) -> None:
    with pytest.raises(ModelAccessDenied, match="token") as caught:
        plan_for(settings, "org/name", token=token)
    assert token not in str(caught.value)
    assert hub.hits() == []


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [
        (gzip.compress, "gzip"),
        (zlib.compress, "deflate"),
        (raw_deflate, "deflate"),
        (gzip.compress, "deflate"),
        (gzip.compress, "X-GZip"),
    ],
)
def test_a_packed_reply_is_unpacked(hub: HubServer, settings: Settings, pack: object, encoding: str) -> None:
    sha = hub.repos["org/name"].at("main").sha
    packed = pack(json.dumps({"id": "org/name", "sha": sha}).encode())  # type: ignore[operator]
    hub.faults.add(Packed(packed, encoding), API)
    assert plan_for(settings, "org/name").commit == sha


def test_a_packed_reply_of_gigabytes_is_refused_before_it_fills_the_memory(hub: HubServer, settings: Settings) -> None:
    import resource

    bomb = gzip.compress(b"[" + b" " * (200 * MIB), compresslevel=1)
    assert len(bomb) < 2 * MIB
    hub.faults.add(Packed(bomb), API)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HubRefused, match="more than 32 MiB"):
        plan_for(settings, "org/name")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 150 * 1024


def test_a_packed_reply_that_breaks_off_may_be_whole_another_time(hub: HubServer, settings: Settings) -> None:
    hub.faults.add(Packed(gzip.compress(json.dumps({"sha": "0" * 40}).encode() * 1000)[:-20]), API)
    with pytest.raises(HubUnavailable, match="broke off"):
        plan_for(settings, "org/name")


def test_a_listing_of_hundreds_of_megabytes_is_refused(hub: HubServer, settings: Settings) -> None:
    settings = replace(settings, max_listing_bytes=4 * MIB)
    page = json.dumps([{"type": "directory", "path": "x" * MIB, "oid": "0" * 40}])
    link = {"Link": f'<{hub.endpoint}/api/models/org/name/tree/again>; rel="next"', "Content-Type": "application/json"}
    hub.faults.add(faults.status(200, link, page), TREE)
    with pytest.raises(HubRefused, match="more than 4 MiB for one listing"):
        plan_for(settings, "org/name")
    assert len(hub.hits("*tree*")) == 4


def test_folders_without_end_are_counted_as_files_are(hub: HubServer, settings: Settings) -> None:
    settings = replace(settings, max_listing_files=5)
    page = json.dumps([{"type": "directory", "path": "x", "oid": "0" * 40}])
    link = {"Link": f'<{hub.endpoint}/api/models/org/name/tree/again>; rel="next"', "Content-Type": "application/json"}
    hub.faults.add(faults.status(200, link, page), TREE)
    with pytest.raises(HubRefused, match="more than 5"):
        plan_for(settings, "org/name")


def test_a_head_that_trickles_ends_with_the_call(settings: Settings) -> None:
    """A byte comes before each wait is over, and the call ends all the same."""
    settings = replace(settings, hub_timeout_s=0.6, first_byte_timeout_s=0.6)
    with trickling(b"HTTP/1.1 200 OK\r\n" + b"x-more: of it\r\n" * 1000, every_s=0.02) as endpoint:
        began_s = time.monotonic()
        with pytest.raises(HubUnavailable, match="did not answer in time"):
            plan_for(replace(settings, hf_endpoint=endpoint), "org/name")
    assert time.monotonic() - began_s < 10


@contextlib.contextmanager
def trickling(text: bytes, every_s: float) -> Iterator[str]:
    """A server that sends the text a byte at a time."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for byte in text:
                    connection.sendall(bytes([byte]))
                    if over.wait(every_s):
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.close()
        thread.join()


# One refusal, one text: what the API refuses, and what a file's address refuses.


@pytest.mark.parametrize("token", [None, DEFAULT_TOKEN])
def test_a_gated_model_says_the_same_by_its_api_and_by_its_files(
    hub: HubServer, settings: Settings, tmp_path: Path, token: str | None
) -> None:
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/name is restricted."}
    status = 401 if token is None else 403
    texts = []
    for pattern in (API, "/org/name/resolve/*"):
        hub.faults.clear()
        hub.faults.add(faults.status(status, gated), pattern)
        with pytest.raises(ModelAccessDenied) as caught:
            bring(settings, tmp_path, token)
        texts.append((caught.value.message, caught.value.details))
    assert texts[0] == texts[1]
    message, details = texts[0]
    assert details["page"] == f"{hub.endpoint}/org/name"
    assert details["page"] in message
    assert ("HF_TOKEN" in message) is (token is None), "who sent a token is not told to send one"


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (403, {}, ModelAccessDenied),
        (401, {}, ModelNotFound),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, ModelAccessDenied),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotFound),
        (404, {"X-Error-Code": "RevisionNotFound"}, RevisionNotFound),
        (451, {}, ModelAccessDenied),
        (400, {}, HubRefused),
    ],
)
def test_other_refusals_too(
    hub: HubServer, settings: Settings, tmp_path: Path, status: int, headers: dict[str, str], kind: type[HiveError]
) -> None:
    texts = []
    for pattern in (API, "/org/name/resolve/*"):
        hub.faults.clear()
        hub.faults.add(faults.status(status, headers), pattern)
        with pytest.raises(kind) as caught:
            bring(settings, tmp_path, DEFAULT_TOKEN)
        texts.append(caught.value.message)
    assert texts[0].replace(" main.", "") == texts[1].replace(f" {hub.repos['org/name'].at('main').sha}.", "")


def test_a_model_whose_readme_is_public_says_where_its_terms_are(
    hub: HubServer, settings: Settings, tmp_path: Path
) -> None:
    """Only the weights are refused: the page's address, as where all of it is."""
    hub.faults.add(faults.status(403, {"X-Error-Code": "GatedRepo"}), f"*/{WEIGHTS}")
    with pytest.raises(ModelAccessDenied, match=f"Accept its terms at {hub.endpoint}/org/name"):
        bring(settings, tmp_path, DEFAULT_TOKEN)


def test_a_file_that_is_gone_is_named(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    hub.faults.add(faults.status(404, {"X-Error-Code": "EntryNotFound"}), f"*/{WEIGHTS}")
    with pytest.raises(FileNotFound, match=WEIGHTS):
        bring(settings, tmp_path)


# Mirrors.


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"65a1f-1f4"'},
        {"ETag": 'W/"65a1f-1f4"'},
        {"ETag": f'"{"0" * 64}"'},
        {},
    ],
)
def test_a_mirrors_own_etag_is_no_digest(
    hub: HubServer, settings: Settings, tmp_path: Path, headers: dict[str, str]
) -> None:
    hub.faults.add(faults.status(200, headers), f"*/{WEIGHTS}", method="HEAD")
    assert bring(settings, tmp_path) == [True, True]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 501])
def test_a_mirror_that_refuses_head_is_asked_for_the_file(
    hub: HubServer, settings: Settings, tmp_path: Path, status: int
) -> None:
    hub.faults.add(faults.status(status), f"*/{WEIGHTS}", method="HEAD")
    assert bring(settings, tmp_path) == [True, True]


def test_the_hubs_own_digest_counts_where_it_is_given(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    from hive.errors import SourceChanged

    hub.faults.add(faults.status(200, {"X-Linked-Etag": f'"{"0" * 64}"'}), f"*/{WEIGHTS}", method="HEAD")
    with pytest.raises(SourceChanged):
        bring(settings, tmp_path)


@pytest.mark.parametrize("status", [400, 404, 405, 422, 501])
def test_a_mirror_without_expand_is_asked_once_more_without(hub: HubServer, settings: Settings, status: int) -> None:
    hub.faults.add(faults.status(status), API, when=lambda request: "expand" in str(request.query))
    plan = plan_for(settings, "org/name")
    assert plan.commit == hub.repos["org/name"].at("main").sha
    assert len(hub.hits(API)) == 2


def test_a_repository_that_does_not_exist_is_asked_for_once(hub: HubServer, settings: Settings) -> None:
    with pytest.raises(ModelNotFound):
        plan_for(settings, "org/nobody", token=DEFAULT_TOKEN)
    assert len(hub.hits("*nobody*")) == 1


def test_a_mirror_that_fetches_itself_first_is_waited_for(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    """Longer than for a body that stalls, and not longer than the setting says."""
    plan = plan_for(settings, "org/name")
    hub.faults.add(faults.slow_connect(1.5), "*/README.md", count=1)
    patient = Limits(stall_s=0.5, first_byte_s=10.0, attempts_max=1)
    assert fetch(plan.files[0].source, tmp_path / "f", limits=patient).verified
    assert len(hub.hits("*/README.md")) == 1


SHA = "0123456789abcdef0123456789abcdef01234567"


def answer_with(hub: HubServer, pattern: str, body: str, headers: dict[str, str] | None = None) -> None:
    hub.faults.add(faults.status(200, {"Content-Type": "application/json", **(headers or {})}, body), pattern)


@pytest.mark.parametrize(
    "field",
    [
        '"lastModified": "2024-01-01T00:00:00+00:00"',
        '"lastModified": 1704067200',
        '"createdAt": "yesterday"',
        '"siblings": [{"name": "x"}]',
        '"siblings": null',
        '"safetensors": {"x": 1}, "cardData": 7, "downloads": "many"',
        '"gguf": "no", "inferenceProviderMapping": 5, "id": null',
    ],
)
def test_what_a_mirror_says_beside_the_commit_does_not_matter(hub: HubServer, settings: Settings, field: str) -> None:
    sha = hub.repos["org/name"].at("main").sha
    answer_with(hub, API, f'{{"sha": "{sha}", "gated": false, {field}}}')
    assert plan_for(settings, "org/name").commit == sha


@pytest.mark.parametrize(
    "entry",
    [
        '{"type": "file", "oid": "%s", "size": 7, "path": null}',
        '{"type": "file", "oid": "%s", "size": 7, "path": 7}',
        '{"type": "file", "oid": "%s", "size": 7, "path": ["README.md"]}',
        '{"type": "file", "oid": "%s", "size": Infinity, "path": "README.md"}',
        '{"type": "file", "oid": "%s", "size": NaN, "path": "README.md"}',
        '{"type": "file", "oid": "%s", "size": -7, "path": "README.md"}',
        '{"type": "file", "oid": "%s", "path": "README.md"}',
        '{"type": "file", "oid": "%s", "size": 7, "path": "README.md", "lfs": {"oid": "sha256:1"}}',
        "null",
        '"README.md"',
    ],
)
def test_a_listing_of_another_form_is_named_as_such(hub: HubServer, settings: Settings, entry: str) -> None:
    answer_with(hub, TREE, f"[{entry.replace('%s', SHA)}]")
    with pytest.raises(HubRefused, match="not a Hub"):
        plan_for(settings, "org/name")


@pytest.mark.parametrize(
    "listing",
    [
        "{}",
        '{"error": "no"}',
        '{"files": []}',
        "[{}]",
        '[{"rfilename": "README.md"}]',
        '[{"type": "blob", "path": "README.md"}]',
        '[["README.md"]]',
        '"README.md"',
        "7",
        "null",
        "true",
    ],
)
def test_a_listing_that_is_none_is_not_an_empty_one(hub: HubServer, settings: Settings, listing: str) -> None:
    answer_with(hub, TREE, listing)
    with pytest.raises(HubRefused, match="not a Hub"):
        plan_for(settings, "org/name")


@pytest.mark.parametrize("pattern", [API, TREE])
@pytest.mark.parametrize("value", ["{}", "[]", '{"a":1}', "7"])
def test_a_reply_of_millions_of_small_things_is_not_made_into_objects(
    hub: HubServer, settings: Settings, pattern: str, value: str
) -> None:
    settings = replace(settings, max_listing_files=1000)
    answer_with(hub, pattern, f"[{','.join([value] * 50_000)}]")
    with pytest.raises(HubRefused, match="more than what is said of 1000 files"):
        plan_for(settings, "org/name")


@pytest.mark.parametrize("folders", ["[]", '[{"type": "directory", "oid": "%s", "path": "a"}]'])
def test_a_repository_without_files_is_empty(hub: HubServer, settings: Settings, folders: str) -> None:
    answer_with(hub, TREE, folders.replace("%s", SHA))
    with pytest.raises(FileNotFound, match="it is empty"):
        plan_for(settings, "org/name")


def test_digests_in_capitals_are_the_same_digests(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    sha = hub.repos["org/name"].at("main").sha
    plan = plan_for(settings, "org/name")
    entries = []
    for file in plan.tree:
        lfs = {"oid": f"sha256:{file.sha256.upper()}", "size": file.size, "pointerSize": 1} if file.sha256 else None
        entry = {"type": "file", "path": file.path, "size": file.size, "oid": file.blob_id.upper(), "lfs": lfs}
        entries.append(entry)
    answer_with(hub, API, json.dumps({"sha": sha.upper(), "gated": False}))
    answer_with(hub, TREE, json.dumps(entries))
    again = plan_for(settings_for(tmp_path / "other", HF_ENDPOINT=settings.hf_endpoint), "org/name")
    assert again.commit == sha
    assert [file.digest for file in again.files] == [file.digest for file in plan.files]


@pytest.mark.parametrize("size", [None, "9" * 5_000, "many"])
def test_an_etag_in_capitals_is_the_same_content(hub: HubServer, settings: Settings, size: str | None) -> None:
    [weights] = [file for file in plan_for(settings, "org/name").files if file.path == WEIGHTS]
    assert weights.digest is not None
    etag = f'"{weights.digest.hex.upper()}"'
    headers = {"X-Linked-Etag": etag, "X-Linked-Size": size or str(weights.size), "Location": "https://cdn.example/x"}
    hub.faults.add(faults.status(302, headers), "*/resolve/*")
    assert weights.source.locate().url == "https://cdn.example/x"


@pytest.mark.parametrize(
    "link",
    [
        '<https://huggingface.co/api/models/org/name/tree/x?cursor=1>; rel="next"',
        '</api/models/org/name/tree/x?cursor=1>; rel="next"',
        "<https://hf.co/api/models/org/name/tree/x?cursor=1>; rel=next",
        '<{}/x>; rel="prev", <{}/api/models/org/name/tree/x?cursor=1>; rel="next"',
    ],
)
def test_the_next_page_is_the_mirrors_own(hub: HubServer, settings: Settings, link: str) -> None:
    first, second = (f'[{{"type": "file", "oid": "{SHA}", "size": 7, "path": "{path}"}}]' for path in ("a", "b"))
    plain = {"Content-Type": "application/json"}
    hub.faults.add(faults.status(200, {**plain, "Link": link.replace("{}", hub.endpoint)}, first), TREE, count=1)
    hub.faults.add(faults.status(200, plain, second), TREE, when=lambda request: "cursor" in request.raw_query)
    assert [file.path for file in plan_for(settings, "org/name").files] == ["a", "b"]


def test_packed_pieces_one_after_the_other_are_one_reply(hub: HubServer, settings: Settings) -> None:
    sha = hub.repos["org/name"].at("main").sha
    text = json.dumps({"sha": sha, "gated": False}).encode()
    hub.faults.add(Packed(gzip.compress(text[:20]) + gzip.compress(text[20:])), API)
    assert plan_for(settings, "org/name").commit == sha


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/x", ".git/hooks/x", "x" * 256, "a\\\\b", "a\\nb", "a//b", "..", "\\ud800"]
)
def test_a_name_that_is_no_files_is_refused_by_name_and_the_rest_can_be_had(
    hub: HubServer, settings: Settings, name: str
) -> None:
    listed = ", ".join(f'{{"type": "file", "oid": "{SHA}", "size": 7, "path": "{path}"}}' for path in (name, "good"))
    answer_with(hub, TREE, f"[{listed}]")
    with pytest.raises(DownloadError, match="--exclude") as caught:
        plan_for(settings, "org/name")
    assert len(caught.value.details["paths"]) == 1
    assert caught.value.message.isprintable()
    plan = plan_for(settings, "org/name", include=("good",))
    assert [file.path for file in plan.files] == ["good"]


@pytest.mark.parametrize(
    "fault",
    [
        faults.redirect_to("https://sso.example/login"),
        faults.redirect_to("https://huggingface.co/org/name/resolve/main/model.safetensors", 308),
        faults.status(200, {"Content-Type": "text/html; charset=utf-8"}, "<!doctype html><title>Log in</title>"),
    ],
)
def test_a_page_to_log_in_and_another_hub_are_no_permission(
    hub: HubServer, settings: Settings, fault: faults.Fault
) -> None:
    place = ProbeFile("org/name", plan_for(settings, "org/name").commit or "", WEIGHTS)
    client = HubClient(settings, None, network_for(settings, guarded=False))
    assert client.lets_in(place)
    hub.faults.add(fault, "/org/name/resolve/*")
    assert not client.lets_in(place)
