"""From a reference to a plan, asked of a Hub that is true to the real one."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from hive.errors import (
    BadRequest,
    DownloadError,
    FileNotFound,
    HubUnavailable,
    ModelAccessDenied,
    ModelNotFound,
    RevisionNotFound,
    SourceChanged,
    VariantNotFound,
)
from hive.settings import Settings
from tests.hub import DEFAULT_TOKEN, HubServer, SyntheticFile, faults, listings
from tests.support.plans import content_of, download, plan_for
from tests.support.settings import settings_for
from workers.sources import RetryLater
from workers.sources.huggingface import SIGNED_FROM_BYTES
from workers.transfer import Digest

TINY = {"README.md": b"# tiny\n", "model.safetensors": b"\0weights" * 100}


class TestPlans:
    """What a plan says."""

    def test_a_plan_is_pinned_to_the_commit_and_knows_every_digest(self, hub: HubServer, settings: Settings) -> None:
        repo = hub.create("org/name", TINY)

        plan = plan_for(settings, "org/name")

        assert (plan.kind, plan.repo, plan.revision) == ("hf", "org/name", "main")
        assert plan.commit == repo.at("main").sha
        assert plan.total_bytes == sum(len(content) for content in TINY.values())
        readme, model = sorted(plan.files, key=lambda file: file.path)
        git_sha1 = hashlib.sha1(b"blob 7\0# tiny\n").hexdigest()
        assert (readme.digest, readme.etag) == (Digest("git-sha1", git_sha1), git_sha1)
        sha256 = hashlib.sha256(TINY["model.safetensors"]).hexdigest()
        assert (model.digest, model.etag) == (Digest("sha256", sha256), sha256)

    def test_a_branch_a_tag_and_a_pull_request_are_revisions(self, hub: HubServer, settings: Settings) -> None:
        repo = hub.create("org/name", TINY)
        old = repo.at("main").sha
        repo.tag("v1.0")
        change = repo.pull_request(1, {"README.md": b"# changed"})
        repo.commit({"README.md": b"# newer"})

        assert plan_for(settings, "org/name@v1.0").commit == old
        assert plan_for(settings, f"org/name@{old}").commit == old
        assert plan_for(settings, "org/name@refs/pr/1").commit == change
        assert plan_for(settings, "org/name").commit not in (old, change)

    def test_a_selection_is_planned_with_its_primary(self, hub: HubServer, settings: Settings) -> None:
        hub.add(listings.unsloth("org/vision-GGUF"))

        plan = plan_for(settings, "org/vision-GGUF:BF16")

        assert plan.variant == "BF16"
        assert plan.primary == "BF16/vision-BF16-00001-of-00003.gguf"
        assert len(plan.files) == 4
        assert len(plan.tree) > len(plan.files)

    def test_the_xet_hash_is_kept_for_its_transport(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", TINY, xet=True)

        hashes = {file.path: file.xet_hash for file in plan_for(settings, "org/name").files}

        assert len(hashes["model.safetensors"] or "") == 64
        assert hashes["README.md"] is None


class TestLocations:
    """Where the bytes are said to be."""

    def test_a_small_file_is_at_the_hubs_own_address_and_costs_no_request(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.create("org/name", {**TINY, "odd name #1.txt": b"odd"})
        plan = plan_for(settings, "org/name", token=DEFAULT_TOKEN)
        hub.reset_log()

        locations = [file.source.locate() for file in plan.files]

        assert hub.hits() == []
        assert {location.url.split("/resolve/")[0] for location in locations} == {f"{hub.endpoint}/org/name"}
        assert locations[0].headers == {"Authorization": f"Bearer {DEFAULT_TOKEN}"}
        assert all(content_of(file) for file in plan.files)

    def test_a_large_file_is_at_its_signed_url_which_gets_no_token(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", {"model.safetensors": SyntheticFile(SIGNED_FROM_BYTES, 1)})
        plan = plan_for(settings, "org/name", token=DEFAULT_TOKEN)
        hub.reset_log()

        location = plan.files[0].source.locate()

        assert location.url.startswith(hub.cdn_endpoint)
        assert location.headers == {}
        assert location.expires_at is not None
        assert time.time() < location.expires_at < time.time() + 86_400
        assert [hit.method for hit in hub.hits()] == ["HEAD"]
        assert len(content_of(plan.files[0])) == SIGNED_FROM_BYTES

    def test_a_thousand_files_cost_one_request_and_their_commit_another(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.add(listings.small_files(990))

        plan = plan_for(settings, "org/many-files")

        assert len(plan.files) == 990
        assert len(hub.hits()) == 2

    def test_every_page_of_a_long_listing_is_read(self, hub: HubServer, settings: Settings) -> None:
        hub.add(listings.small_files(2100))

        assert len(plan_for(settings, "org/many-files").files) == 2100

    def test_a_commit_whose_listing_is_on_the_disk_is_not_asked_for_again(
        self, hub: HubServer, settings: Settings
    ) -> None:
        repo = hub.create("org/name", TINY)
        download(settings, plan_for(settings, "org/name"))
        hub.reset_log()

        plan = plan_for(settings, f"org/name@{repo.at('main').sha}")

        assert len(plan.files) == 2
        assert hub.hits() == []

    def test_only_the_commit_is_asked_for_when_its_listing_is_on_the_disk(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.create("org/name", TINY)
        download(settings, plan_for(settings, "org/name", include=("README.md",)))
        hub.reset_log()

        assert len(plan_for(settings, "org/name").files) == 2
        assert len(hub.hits()) == 1

    def test_another_content_than_the_listings_is_found_out(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", {"model.safetensors": SyntheticFile(SIGNED_FROM_BYTES, 1)})
        plan = plan_for(settings, "org/name")
        assert plan.commit is not None
        entry = hub.repos["org/name"].commits[plan.commit].files["model.safetensors"]
        entry.content = SyntheticFile(SIGNED_FROM_BYTES, 2)
        del entry.sha256

        with pytest.raises(SourceChanged):
            plan.files[0].source.locate()


class TestErrors:
    """What the Hub refuses, in words that say what to do."""

    def test_an_unknown_model_may_be_private(self, hub: HubServer, settings: Settings) -> None:
        with pytest.raises(ModelNotFound, match="HF_TOKEN"):
            plan_for(settings, "org/absent")
        with pytest.raises(ModelNotFound, match="the token does not see it"):
            plan_for(settings, "org/absent", token=DEFAULT_TOKEN)

    def test_a_private_model_is_found_with_the_token(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/private", TINY, private=True)

        with pytest.raises(ModelNotFound):
            plan_for(settings, "org/private")
        assert len(plan_for(settings, "org/private", token=DEFAULT_TOKEN).files) == 2

    def test_a_gated_model_says_before_the_first_byte_how_to_get_access(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.create("org/gated", TINY, gated="manual")

        with pytest.raises(ModelAccessDenied, match=f"{hub.endpoint}/org/gated") as caught:
            plan_for(settings, "org/gated")

        assert "HF_TOKEN" in caught.value.message
        assert caught.value.details["page"] == f"{hub.endpoint}/org/gated"
        assert len(plan_for(settings, "org/gated", token=DEFAULT_TOKEN).files) == 2

    def test_a_wrong_token_is_said_to_be_wrong_and_not_repeated(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", TINY)

        with pytest.raises(ModelAccessDenied, match="token") as caught:
            plan_for(settings, "org/name", token="hf_wrong_canary")

        assert "canary" not in f"{caught.value.message} {caught.value.details}"

    @pytest.mark.parametrize("revision", ["absent", "f" * 40])
    def test_an_unknown_revision_is_named(self, hub: HubServer, settings: Settings, revision: str) -> None:
        hub.create("org/name", TINY)

        with pytest.raises(RevisionNotFound, match=revision):
            plan_for(settings, f"org/name@{revision}")

    def test_an_unknown_file_comes_with_near_misses(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/name", TINY)

        with pytest.raises(FileNotFound) as caught:
            plan_for(settings, "hf:org/name/model.safetensor")

        assert caught.value.details["similar"] == ["model.safetensors"]

    def test_an_unknown_or_unclear_quantisation_comes_with_the_variants(
        self, hub: HubServer, settings: Settings
    ) -> None:
        hub.create("org/q", {"M-Q8_0.gguf": b"\0eight", "M-Q6_K.gguf": b"\0six"})

        for ref in ("org/q:Q2_K", "org/q"):
            with pytest.raises(VariantNotFound) as caught:
                plan_for(settings, ref)
            assert [variant["name"] for variant in caught.value.details["variants"]] == ["Q6_K", "Q8_0"]

    def test_patterns_beside_a_quantisation_are_refused(self, hub: HubServer, settings: Settings) -> None:
        hub.create("org/q", {"M-Q8_0.gguf": b"\0eight"})

        with pytest.raises(BadRequest):
            plan_for(settings, "org/q:Q8_0", include=("*",))

    @pytest.mark.parametrize("name", ["../outside", ".git/hooks/post-checkout", "...", "a//b", "line\nbreak"])
    def test_a_file_with_an_unsafe_name_fails_when_it_is_selected(
        self, hub: HubServer, settings: Settings, name: str
    ) -> None:
        hub.create("org/evil", {**TINY, name: b"evil"})

        with pytest.raises(DownloadError, match="name"):
            plan_for(settings, "org/evil")
        assert len(plan_for(settings, "org/evil", include=("README.md",)).files) == 1

    def test_offline_means_that_the_hub_is_not_asked(self, hub: HubServer, tmp_path: Path) -> None:
        hub.create("org/name", TINY)

        with pytest.raises(HubUnavailable, match="HF_HUB_OFFLINE"):
            plan_for(settings_for(tmp_path, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1"), "org/name")

        assert hub.hits() == []

    def test_a_hub_that_is_away_is_unavailable(self, tmp_path: Path) -> None:
        with HubServer() as server:
            settings = settings_for(tmp_path, HF_ENDPOINT=server.endpoint)

        with pytest.raises(HubUnavailable, match="cannot be reached"):
            plan_for(settings, "org/name")

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
    def test_a_failing_hub_is_unavailable_at_once_since_the_worker_retries(
        self, hub: HubServer, settings: Settings, status: int
    ) -> None:
        hub.create("org/name", TINY)
        hub.faults.add(faults.status(status), "/api/models/org/name/tree/*")

        with pytest.raises(HubUnavailable, match=str(status)):
            plan_for(settings, "org/name")

        assert len(hub.hits("*tree*")) == 1

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "7"}, 7.0),
            ({}, 30.0),
            ({"Retry-After": "99999999"}, 900.0),
            ({"Retry-After": "soon"}, 30.0),
        ],
    )
    @pytest.mark.parametrize("call", ["/api/models/org/name/revision/*", "/api/models/org/name/tree/*"])
    def test_a_rate_limit_says_how_long_to_wait(
        self, hub: HubServer, settings: Settings, headers: dict[str, str], seconds: float, call: str
    ) -> None:
        hub.create("org/name", TINY)
        hub.faults.add(faults.status(429, headers), call)

        with pytest.raises(RetryLater) as caught:
            plan_for(settings, "org/name")

        assert caught.value.seconds == pytest.approx(seconds, abs=1)

    @pytest.mark.parametrize(
        "body",
        [
            "<html>",
            "[1]",
            '[{"type": "file"}]',
            '[{"type": "file", "path": "a", "size": 1, "oid": "../../x"}]',
            '[{"type": "file", "path": "a", "size": -1, "oid": "0000000000000000000000000000000000000000"}]',
            "[" * 100_000,
        ],
    )
    def test_an_answer_of_another_form_is_not_believed(self, hub: HubServer, settings: Settings, body: str) -> None:
        hub.create("org/name", TINY)
        hub.faults.add(faults.status(200, {"Content-Type": "application/json"}, body), "/api/models/org/name/tree/*")

        with pytest.raises(HubUnavailable, match="not a Hub"):
            plan_for(settings, "org/name")
