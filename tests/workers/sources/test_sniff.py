"""A 200 is not yet a model: what comes for a plain URL without a digest, and what is said of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from hive.errors import NotAModel
from hive.settings import Settings
from tests.hub import HubServer, SyntheticFile, faults
from tests.hub.content import read_all
from tests.support.content import MIB
from tests.support.plans import plan_for
from tests.support.transfer import QUICK
from workers.transfer import Fetched, data_path, fetch, journal_path

BINARY = read_all(SyntheticFile(3000, 7))


def gguf(tensors: int = 3, payload: bytes = BINARY) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, 1) + payload


def safetensors(payload: bytes = BINARY, missing: int = 0) -> bytes:
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, len(payload)]}})
    return struct.pack("<Q", len(header)) + header.encode() + payload[: len(payload) - missing]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", BINARY)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("empty"))
    return file.getvalue()


PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 4920734272\n"
XML = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'
JSON_ERROR = b'{"error": "Invalid username or password."}'
OCTETS = "application/octet-stream"


def bring(hub: HubServer, settings: Settings, tmp_path: Path, name: str, content: bytes, media_type: str) -> Fetched:
    """Fetch a URL that ends in this name, for which the server sends this content."""
    url = hub.plain(f"/files/{name}", b"replaced", etag=False, last_modified=False)
    hub.faults.add(faults.presented(content, media_type), "/files/*")
    [file] = plan_for(settings, url).files
    return fetch(file.source, tmp_path / "f", limits=QUICK)


@pytest.mark.parametrize(
    ("name", "content", "media_type", "came"),
    [
        ("model.gguf", PAGE, "text/html; charset=utf-8", "a web page"),
        ("model.gguf", PAGE, OCTETS, "a web page"),
        ("model.gguf", b"\n  <HTML><body>login</body></HTML>", "text/plain", "a web page"),
        ("model.gguf", b"\xef\xbb\xbf<!-- saved --><html>", OCTETS, "a web page"),
        ("get", PAGE, "text/html", "a web page"),
        ("model.gguf", PAGE * 100, OCTETS, "a web page"),
        ("model.gguf", bytes(5000), OCTETS, "other bytes"),
        ("get", ("\ufeff" + PAGE.decode()).encode("utf-16-le"), OCTETS, "a web page"),
        ("model.bin", ("\ufeff" + PAGE.decode()).encode("utf-16-be"), OCTETS, "a web page"),
        ("get", b"<!--" + b"x" * 3000 + b"-->" + PAGE, OCTETS, "a web page"),
        ("get", b"<pre>Cannot GET /get</pre>", OCTETS, "a web page"),
        ("get", b'<a href="/login">Found</a>.', OCTETS, "a web page"),
        ("README.md", PAGE, "text/plain", "a web page"),
        ("model.gguf", b"\xef\xbb\xbf" + POINTER, OCTETS, "a Git LFS pointer"),
        ("get", b"\r\n" + POINTER.replace(b"\n", b"\r\n"), OCTETS, "a Git LFS pointer"),
        ("tokenizer.json", b"\xef\xbb\xbf" + POINTER, "text/plain", "a Git LFS pointer"),
        ("get", b"\xef\xbb\xbf" + JSON_ERROR, OCTETS, "a JSON document"),
        ("config.json", b'{"message": "Not Found", "documentation_url": "x", "status": "404"}', OCTETS, "an error"),
        ("config.json", b'{"error": "no", "request_id": "1"}', OCTETS, "an error in JSON"),
        ("get", b"please log in", "text/html", "a web page"),
        ("model", BINARY, "text/html", "a web page"),
        ("model.bin", PAGE * 2000, "text/html", "a web page"),
        ("config.json", PAGE, "text/html", "a web page"),
        ("model.gguf", JSON_ERROR, "application/json", "a JSON document"),
        ("model.safetensors", JSON_ERROR, OCTETS, "a JSON document"),
        ("get", JSON_ERROR, "application/problem+json", "a JSON document"),
        ("get", b'  [{"message": "no"}]', OCTETS, "a JSON document"),
        ("config.json", JSON_ERROR, "application/json", "an error in JSON"),
        ("config.json", b'{"detail": "Not found", "status": 404}', "application/json", "an error in JSON"),
        ("get", b"Access denied", "text/plain", "a message ('Access denied')"),
        ("download", b"File 7 does not exist.\n", OCTETS, "a message"),
        ("get", b"expired https://host/x?sig=c4n4ry", "text/plain", "a message ('expired')"),
        ("get", "Ihr Zugang ist gesperrt: für Sie.".encode(), OCTETS, "a message"),
        ("get", gzip.compress(PAGE, mtime=0), OCTETS, "a web page, packed with gzip"),
        ("get", gzip.compress(PAGE + BINARY * 3, mtime=0), "application/x-gzip", "a web page, packed with gzip"),
        ("model.tar.gz", gzip.compress(PAGE, mtime=0), OCTETS, "a web page, packed with gzip"),
        ("get", gzip.compress(JSON_ERROR, mtime=0), OCTETS, "a JSON document, packed with gzip"),
        ("get", gzip.compress(b"Access denied", mtime=0), OCTETS, "a message ('Access denied'), packed with gzip"),
        ("model.bin", gzip.compress(b"Access denied", mtime=0), OCTETS, "a text, packed with gzip"),
        ("model.gguf", XML, "application/xml", "an XML document"),
        ("model.bin", XML, OCTETS, "an XML document"),
        ("openvino.xml", XML, "text/xml", "an XML document"),
        ("get", b"<Error><Code>AccessDenied</Code></Error>", OCTETS, "an XML document"),
        ("model.gguf", POINTER, "text/plain", "a Git LFS pointer"),
        ("get", POINTER, OCTETS, "a Git LFS pointer"),
        ("config.json", POINTER, "application/json", "a Git LFS pointer"),
        ("model.bin", b"Too many requests\n", "text/plain", "a text"),
        ("model.pth", b"404: Not Found", OCTETS, "a text"),
        ("model.gguf", BINARY, OCTETS, "other bytes"),
        ("model.GGUF", safetensors(), OCTETS, "a safetensors file"),
        ("model.safetensors", BINARY, OCTETS, "other bytes"),
        ("model.safetensors", zipped(), OCTETS, "a zip archive"),
        ("model.safetensors", b"\0" * 8, OCTETS, "other bytes"),
        ("model.npz", BINARY, OCTETS, "other bytes"),
        ("model.zip", gguf(), OCTETS, "a GGUF file"),
        ("model.gguf", b"\x1f\x8b\x08\0" + BINARY, OCTETS, "a gzip archive"),
        ("model.gguf", b"", OCTETS, "an empty file"),
        ("get", b"", "text/plain", "an empty file"),
        ("model.safetensors", safetensors()[:60], OCTETS, "a safetensors file"),
        ("model.safetensors", safetensors(missing=1), OCTETS, "a safetensors file"),
        ("model.safetensors", safetensors() + b"\n", OCTETS, "a safetensors file"),
        ("model.safetensors", struct.pack("<Q", 20) + b"{" + BINARY, OCTETS, "header cannot be read"),
        ("model.gguf", gguf(tensors=0), OCTETS, "a GGUF file without tensors"),
        ("model.gguf", b"GGUF\3\0\0\0", OCTETS, "a GGUF file"),
        ("model.zip", zipped()[:-30], OCTETS, "a zip archive that is cut short"),
        ("model.pt", zipped()[:-30], OCTETS, "a zip archive that is cut short"),
    ],
)
def test_what_is_no_model_is_refused_with_what_came(
    hub: HubServer, settings: Settings, tmp_path: Path, name: str, content: bytes, media_type: str, came: str
) -> None:
    with pytest.raises(NotAModel, match="The server sent") as caught:
        bring(hub, settings, tmp_path, name, content, media_type)
    assert came in caught.value.message
    assert caught.value.details["came"] in caught.value.message
    # Final: the next try begins with nothing.
    assert not data_path(tmp_path / "f").exists()
    assert not journal_path(tmp_path / "f").exists()
    # What calls itself empty where a range is asked for is asked for once more, without one.
    assert len(hub.hits("/files/*")) <= (2 if content else 3)


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("model.gguf", gguf(), OCTETS),
        ("model.gguf", gguf(), "text/html"),
        ("get", gguf(), "application/json"),
        ("ggml-vocab-llama.gguf", gguf(tensors=0), OCTETS),
        ("model-00001-of-00002.gguf", gguf(tensors=0), OCTETS),
        ("model.safetensors", safetensors(), "text/plain"),
        ("model.safetensors", safetensors(payload=b""), OCTETS),
        ("model.npz", zipped(), OCTETS),
        ("model.pt", zipped(), OCTETS),
        ("pytorch_model.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + BINARY, OCTETS),
        ("weights.tar", tarred(), OCTETS),
        ("model.bin", BINARY, "text/plain"),
        ("get", BINARY, OCTETS),
        ("config.json", b'{"model_type": "llama"}', "application/json"),
        ("config.json", b'{"error": "x", "model_type": "llama"}', "text/plain"),
        ("vocab.txt", b"[PAD]\n[UNK]\n", "text/plain"),
        ("chat_template.jinja", b'{"a"} {% for m in messages %}', "text/plain"),
        ("openvino.xml", b'<?xml version="1.0"?><net name="m"></net>', "text/xml"),
        ("README.md", b'<div align="center">\n<h1>A model</h1></div>\n', "text/plain"),
        ("README.md", b'<p><img src="x.png"></p>\n# A model\n', "text/markdown"),
        ("LICENSE", b"Apache License", "text/plain"),
        ("merges", b"a b\n" * 20, "text/plain"),
        ("get", b"a text\n" * 1000, "text/plain"),
        ("model.tar.gz", gzip.compress(b"tar " + BINARY, mtime=0), OCTETS),
        ("get", gzip.compress(BINARY, mtime=0), OCTETS),
        ("page.html.gz", gzip.compress(PAGE, mtime=0), OCTETS),
        ("config.json.gz", gzip.compress(b'{"model_type": "llama"}', mtime=0), OCTETS),
        ("vocab.txt.gz", gzip.compress(b"[PAD]\n[UNK]\n", mtime=0), OCTETS),
        ("README", "Ein Modell für alle.".encode(), "text/plain"),
    ],
)
def test_what_may_be_a_model_is_taken(
    hub: HubServer, settings: Settings, tmp_path: Path, name: str, content: bytes, media_type: str
) -> None:
    assert bring(hub, settings, tmp_path, name, content, media_type).size == len(content)
    assert data_path(tmp_path / "f").read_bytes() == content


def test_a_digest_vouches_for_whatever_comes(hub: HubServer, settings: Settings, tmp_path: Path) -> None:

    url = hub.plain("/model.gguf", PAGE)
    [file] = plan_for(settings, url, sha256=hashlib.sha256(PAGE).hexdigest()).files
    assert fetch(file.source, tmp_path / "f", limits=QUICK).verified


def test_a_large_disguise_is_refused_with_its_first_bytes(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    hub.limit_rate_bytes_per_s = MIB
    url = hub.plain("/model.gguf", SyntheticFile(64 * MIB, 3))
    [file] = plan_for(settings, url).files
    with pytest.raises(NotAModel):
        fetch(file.source, tmp_path / "f", limits=QUICK)
    assert hub.bytes_sent("/model.gguf") < 16 * MIB


def test_the_name_behind_redirects_is_looked_at_too(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    url = hub.redirect("/latest", hub.plain("/model.gguf", BINARY))
    [file] = plan_for(settings, url).files
    with pytest.raises(NotAModel, match="not a GGUF file"):
        fetch(file.source, tmp_path / "f", limits=QUICK)


def test_a_login_page_behind_a_redirect_is_found(hub: HubServer, settings: Settings, tmp_path: Path) -> None:
    url = hub.redirect("/model.gguf", hub.plain("/login", PAGE))
    [file] = plan_for(settings, url).files
    with pytest.raises(NotAModel, match="a web page"):
        fetch(file.source, tmp_path / "f", limits=QUICK)
