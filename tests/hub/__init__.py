"""A stand-in of the Hugging Face Hub, true enough that its own client cannot tell, with faults to order.

with HubServer() as hub:
    repo = hub.create("org/name", {"config.json": b"{}", "model.gguf": SyntheticFile(64 << 20)})
    hub.faults.add(faults.cut(after_bytes=1 << 20), "*.gguf", origin="cdn", count=1)
    ...  # HF_ENDPOINT=hub.endpoint hf download org/name
    assert hub.bytes_sent("*.gguf", origin="cdn") < 66 << 20
"""

from tests.hub import faults
from tests.hub.access import DEFAULT_TOKEN
from tests.hub.content import AnyContent, Bytes, Content, ListedFile, PathFile, SyntheticFile
from tests.hub.hits import Hit, HitLog
from tests.hub.repo import Entry, Repo
from tests.hub.rules import FaultBook, Rule
from tests.hub.server import HubServer

__all__ = [
    "DEFAULT_TOKEN",
    "AnyContent",
    "Bytes",
    "Content",
    "Entry",
    "FaultBook",
    "Hit",
    "HitLog",
    "HubServer",
    "ListedFile",
    "PathFile",
    "Repo",
    "Rule",
    "SyntheticFile",
    "faults",
]
