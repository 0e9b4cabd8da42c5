"""`GET /` and the files beside it, at a real server: headers, compression, and who may ask."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import requests

import hive.page
from hive.auth.keys import KeyFile
from hive.page.assets import MEDIA_TYPES
from tests.support.keys import ask, make
from tests.support.processes import Server, environment

STATIC = Path(hive.page.__file__).parent / "static"
FILES = sorted(path.name for path in STATIC.iterdir() if path.suffix.lstrip(".") in MEDIA_TYPES)


def test_the_page_is_answered_with_a_policy_that_lets_nothing_else_in(api: str) -> None:
    answer = requests.get(api, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text == (STATIC / "index.html").read_text()
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert not any("unsafe" in part or "http" in part or "*" in part for part in policy)
    assert "require-trusted-types-for 'script'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert requests.head(api, timeout=60).status_code == 200


def test_every_file_is_there_compressed_and_kept_until_it_changes(api: str) -> None:
    for name in FILES:
        url = f"{api}/page/{name}"
        answer = requests.get(url, headers={"accept-encoding": "gzip, deflate"}, stream=True, timeout=60)
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(answer.raw.read()) == (STATIC / name).read_bytes()
        assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-cache", "accept-encoding")
        again = requests.get(url, headers={"if-none-match": f'"x", W/{answer.headers["etag"]}'}, timeout=60)
        assert (again.status_code, again.content) == (304, b"")
    for refused in ("identity", "gzip;q=0", ""):
        plain = requests.get(f"{api}/page/{FILES[0]}", headers={"accept-encoding": refused}, timeout=60)
        assert "content-encoding" not in plain.headers
        assert plain.content == (STATIC / FILES[0]).read_bytes()


@pytest.mark.parametrize(
    "name", ["", "none.js", "types.d.ts", "..%2fassets.py", "%2e%2e/assets.py", "a/b", "index.html%00", "INDEX.HTML"]
)
def test_what_is_no_file_of_it_is_not_found(api: str, name: str) -> None:
    answer = requests.get(f"{api}/page/{name}", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "NOT_FOUND"


def test_the_page_is_open_where_keys_are_on_and_its_list_is_not(redis_url: str, tmp_path: Path) -> None:
    key = make(KeyFile(tmp_path / "home" / "keys.json"), "read")
    server = Server(environment(redis_url, tmp_path, HIVE_DRAIN_S="0.1"))
    try:
        server.wait_until_ready()
        assert [ask(server, "GET", path).status for path in ("/", "/page/main.js", "/list")] == [200, 200, 401]
        for closed in ("/page/none.js/x", "/page", "/pages/main.js", "/page/a/../../v1/models"):
            assert ask(server, "GET", closed).status in (401, 404)
        assert ask(server, "POST", "/page/main.js").status == 401
        assert ask(server, "GET", "/list", key).status == 200
    finally:
        server.stop()


def test_the_list_without_scripts_asks_for_itself_again(api: str) -> None:
    answer = requests.post(f"{api}/v1/models/download", json={"model_ref": "hf:org/<b>name"}, timeout=60)
    assert answer.status_code == 400
    assert requests.post(f"{api}/v1/models/download", json={"model_ref": "hf:org/name"}, timeout=60).status_code == 202
    page = requests.get(f"{api}/list", timeout=60)
    assert 'http-equiv="refresh"' in page.text
    assert "hf:org/name" in page.text
    assert page.headers["cache-control"] == "no-store"
