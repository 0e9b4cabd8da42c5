"""A real Xet store in a folder, filled by hf_xet itself, behind the stand-in of the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.hub import HubServer
from tests.hub.content import Content, read_all
from tests.support.content import KIB
from tests.support.transfer import QUICK, source
from workers.transfer import Location, Source
from workers.transfer.xet.transport import available

#: Many short pieces, so that a file of 4 MiB has a middle.
XET_QUICK = replace(QUICK, xet_part_bytes=256 * KIB, xet_steal_min_bytes=64 * KIB, stall_s=5.0, read_bytes=64 * KIB)


def need_hf_xet() -> None:
    """Skip the test at home, where hf_xet may be missing for a platform; in CI it must be there."""
    if not available():
        assert os.environ.get("CI") != "true", "hf_xet is not installed, and CI must test it"
        pytest.skip("hf_xet is not installed")


def upload(folder: Path, content: Content) -> str:
    """Put a content into the store in `folder`; gives its Xet hash. A file on disk is not read into memory."""
    os.environ.setdefault("HF_XET_LOG_DEST", os.devnull)
    import hf_xet

    folder.mkdir(exist_ok=True)
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config({"telemetry.enabled": False}))
    commit = session.new_upload_commit(endpoint=f"local://{folder}")
    if content.path is not None:
        commit.start_upload_file(str(content.path))
    else:
        commit.start_upload_bytes(read_all(content))
    (done,) = commit.wait_to_finish().uploads.values()
    return str(done.xet_info.hash)


@dataclass
class XetFile:
    """A file that lies in a Xet store and, the same, at the Hub."""

    hub: HubServer
    content: Content
    hash: str
    folder: Path
    token_url: str
    source: Source

    def locate_token(self) -> Location:
        return Location(self.token_url)

    def blocks(self) -> list[Path]:
        """The store's blocks, in which the bytes lie."""
        return [path for path in (self.folder / "xet" / "xorbs" / "xorbs").iterdir() if path.is_file()]

    def break_store(self) -> None:
        """From now on nothing comes from the store."""
        for path in self.blocks():
            path.rename(path.with_suffix(".away"))

    def flip_a_byte(self) -> None:
        """Spoil one stored byte in the middle."""
        path = max(self.blocks(), key=lambda block: block.stat().st_size)
        with path.open("r+b") as block:
            at = path.stat().st_size // 2
            block.seek(at)
            byte = block.read(1)
            block.seek(at)
            block.write(bytes([byte[0] ^ 1]))

    @property
    def bytes_over_http(self) -> int:
        """Bytes of the file that the CDN sent."""
        return self.hub.bytes_sent("*model.safetensors", origin="cdn")


def xet_file(hub: HubServer, tmp_path: Path, content: Content) -> XetFile:
    """The file of a repository with Xet, large or small."""
    folder = tmp_path / "xet-store"
    xet_hash = upload(folder, content)
    repo = hub.create("org/xet", {"model.safetensors": content}, xet=True)
    repo.set_xet_hash("model.safetensors", xet_hash)
    hub.api.xet_endpoint = f"local://{folder}"
    token_url = f"{hub.endpoint}/api/models/org/xet/xet-read-token/{repo.at('main').sha}"
    what = source(hub.resolve_url(repo, "model.safetensors"), content)
    return XetFile(hub, content, xet_hash, folder, token_url, what)
