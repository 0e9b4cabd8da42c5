"""What hive prints as a model's name can be typed, and means that model."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hive.store.catalog import ModelCatalog
from hive.wire.refs import parse_ref, path_problem
from tests.support.settings import settings_for
from tests.support.store import COMMIT, put, put_tree

#: Names as publishers make them, and as nobody should.
STEMS = st.sampled_from(
    [
        *("m-Q4_K_M", "M-q4_k_m", "m-UD-Q4_K_XL", "model", "my model", "a@2x", "e:v1", "m.v1.gguf", "x" * 60, "m-fp16"),
        *(
            "deep/m-Q8_0",
            "MTP/m-Q8_0-MTP",
            "draft-m",
            "a+b",
            "模型-Q6_K",
            "m-F16",
            "two.words",
            "tokenizer",
            "-m",
            "m ",
        ),
    ]
)
REFS = st.sampled_from(["main", "v1.0", "refs/pr/1", "with@at", "a b", "x.lock"])


@settings(max_examples=150, deadline=None)
@given(st.lists(STEMS, min_size=1, max_size=4, unique=True), st.lists(REFS, max_size=2, unique=True), st.booleans())
def test_every_listed_name_leads_back_to_its_model(stems: list[str], refs: list[str], listing: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = settings_for(Path(folder))
        files = {f"{stem}.gguf": stem.encode() for stem in stems if path_problem(f"{stem}.gguf") is None}
        put(where, "org/name", files, refs=tuple(refs))
        if listing:
            put_tree(where, "org/name", files)
        catalog = ModelCatalog(where)
        for model in catalog.list():
            found = catalog.find(parse_ref(model.id))
            assert found is not None, model.id
            assert (found.local_path, found.model_id) == (model.path, model.id)
            assert parse_ref(model.id).rev in (*refs, "main", COMMIT)
