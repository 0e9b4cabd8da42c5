"""The models whose downloads a release leaves behind: made again, byte for byte, wherever they are needed."""

from __future__ import annotations

from tests.hub import Repo, SyntheticFile
from tests.hub.server import HubServer
from tests.support.content import MIB

FILE = "m-Q4_K_M.gguf"
#: By the state in which the release leaves the download.
CONTENTS = {
    "complete": SyntheticFile(MIB, seed=21),
    "running": SyntheticFile(24 * MIB, seed=22),
    "paused": SyntheticFile(24 * MIB, seed=23),
    "queued": SyntheticFile(3 * MIB, seed=24),
    "gated": SyntheticFile(2 * MIB, seed=25),
}
#: What opens the gated one: the request brings it, sealed in Redis.
TOKEN = "hf_upgrade"


def hub_with_models() -> HubServer:
    """The stand-in of the Hub that has them all."""
    repos = []
    for state, content in CONTENTS.items():
        repo = Repo(f"org/{state}", gated="manual" if state == "gated" else False)
        repo.commit({FILE: content})
        repos.append(repo)
    return HubServer(*repos, token=TOKEN)
