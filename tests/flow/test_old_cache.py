"""A cache that an older tool wrote, which kept no listing, while the Hub is away."""

from __future__ import annotations

import pytest

from hive.settings import Settings
from tests.support.service import Service
from tests.support.store import COMMIT, WHOLE, put

#: A port that nobody listens on.
CLOSED = "http://127.0.0.1:9"


@pytest.mark.parametrize("offline", [True, False])
def test_it_is_answered_from_the_disk_with_a_note(env: dict[str, str], settings: Settings, offline: bool) -> None:
    put(settings, "org/name", WHOLE)
    put(settings, "org/cut", {"model-00001-of-00002.safetensors": b"half"})
    unfinished = put(settings, "org/unfinished", WHOLE)
    (unfinished.parents[1] / "blobs" / f"{'ab' * 32}.incomplete").write_bytes(b"half")
    away = {"HF_ENDPOINT": CLOSED, "HF_HUB_OFFLINE": "1" if offline else "0"}
    service = Service({**env, **away}, workers=1)
    try:
        end = service.bring("hf:org/name")
        assert end["stage"] == "complete", end
        assert end["local_path"] == str(settings.hub_dir / "models--org--name" / "snapshots" / COMMIT)
        assert "the Hub could not be asked" in end["message"]
        if offline:
            for model in ("hf:org/cut", "hf:org/unfinished", "hf:org/other"):
                assert service.bring(model)["code"] == "HUB_UNAVAILABLE"
        refused = service.bring("hf:org/name", update=True)
        assert (refused["stage"], refused["code"]) == ("error", "HUB_UNAVAILABLE")
    finally:
        service.stop()
