"""A plain URL as a plan."""

from __future__ import annotations

import pytest

from hive.errors import BadRequest, InvalidModelRef
from hive.settings import Settings
from hive.wire.refs import ModelRef
from tests.hub import HubServer
from tests.support.plans import content_of, plan_for
from workers.sources.url import resolve
from workers.transfer import Digest


def test_a_url_is_one_file_whose_size_only_its_server_knows(hub: HubServer, settings: Settings) -> None:
    url = hub.plain("/models/file.gguf", b"content")

    plan = plan_for(settings, f"{url}?signature=abc")

    [file] = plan.files
    assert (plan.kind, plan.primary, plan.total_bytes) == ("url", "file.gguf", None)
    assert (file.size, file.digest, file.etag, file.source.name) == (None, None, None, "file.gguf")
    assert file.source.locate().url == f"{url}?signature=abc"
    assert file.source.locate().headers == {}
    assert content_of(file) == b"content"


@pytest.mark.parametrize("digest", ["ab" * 32, "AB" * 32])
def test_a_digest_that_is_given_is_checked(settings: Settings, digest: str) -> None:
    plan = plan_for(settings, "https://host.example/f.gguf", sha256=digest)

    assert plan.files[0].digest == Digest("sha256", "ab" * 32)


@pytest.mark.parametrize("digest", ["ab", "xy" * 32, "ab" * 32 + "\n", "../" + "a" * 61])
def test_a_digest_that_is_none_is_refused(settings: Settings, digest: str) -> None:
    with pytest.raises(BadRequest, match="64 hex digits"):
        plan_for(settings, "https://host.example/f.gguf", sha256=digest)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/model.gguf", "model.gguf"),
        ("/a/my%20model%20(1).gguf", "my model (1).gguf"),
        ("/", "download"),
        ("/folder/", "download"),
        ("/..", "download"),
        ("/%2e%2e", "download"),
        ("/a%2f..%2f..%2fetc%2fpasswd", "passwd"),
        ("/a%5c..%5cb", "b"),
        ("/nul%00byte%0a.gguf", "nul_byte_.gguf"),
        ("/CON", "download"),
        ("/manifest.json", "download"),
        ("/.git", "git"),
        ("/caf%C3%A9.gguf", "café.gguf"),
        ("/" + "x" * 300 + ".gguf", "x" * 250 + ".gguf"),
        ("/" + "y" * 300, "y" * 255),
    ],
)
def test_a_name_is_the_last_segment_made_safe(settings: Settings, path: str, name: str) -> None:
    assert plan_for(settings, f"https://host.example{path}").primary == name


def test_a_name_that_is_asked_for_is_made_safe_whoever_let_it_pass() -> None:
    assert resolve(ModelRef(url="https://host.example/f.gguf"), None, name="../../etc/x").name == "x"


def test_a_reference_to_the_hub_is_no_url() -> None:
    with pytest.raises(InvalidModelRef):
        resolve(ModelRef(repo="org/name"), None)
