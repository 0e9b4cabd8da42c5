"""What may stand beside a reference."""

from __future__ import annotations

import pytest

from hive.downloads.asked import checked
from hive.errors import BadRequest
from hive.wire.refs import parse_ref
from hive.wire.spec import DownloadSpec

URL = "https://host.example/f.gguf"


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", "", "nul", "x\n", "manifest.json", "..\\x"])
def test_a_name_that_leads_elsewhere_or_is_none_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="'name' must be"):
        checked(DownloadSpec(parse_ref(URL), name=name))


@pytest.mark.parametrize("digest", ["", "zz", "sha256:" + "a" * 64, "a" * 64 + "\n", "\uff11" * 64])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(BadRequest, match="64 hex digits"):
        checked(DownloadSpec(parse_ref(URL), sha256=digest))


def test_neither_stands_beside_a_model_of_the_hub_and_both_are_read_beside_a_url() -> None:
    model = DownloadSpec(parse_ref("org/name"))
    for spec in (model._replace(sha256="a" * 64), model._replace(name="f.gguf")):
        with pytest.raises(BadRequest, match="for plain URLs"):
            checked(spec)
    spec = checked(DownloadSpec(parse_ref(URL), sha256="A" * 64, name="mode\u0300le.gguf"))
    assert (spec.sha256, spec.name) == ("a" * 64, "mod\u00e8le.gguf")
