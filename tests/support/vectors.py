"""What is expected of a worker whose model makes vectors."""

from __future__ import annotations

from tests.support.gguf_models import SMALL
from tests.support.llm import LlmProcess

#: Tokens of a long text: more than engines compute at once where nobody tells them to.
_MANY = 1500


def assert_makes_vectors(worker: LlmProcess) -> None:
    """Of one text, of several, and of a long one, as many numbers as the model is wide; and no text, with a way out."""
    answer = worker.post("/v1/embeddings", {"input": ["a", "b" * _MANY]})
    assert answer.status_code == 200, answer.text
    vectors = [each["embedding"] for each in answer.json()["data"]]
    assert [len(vector) for vector in vectors] == [SMALL.width] * 2
    assert vectors[0] != vectors[1]
    for path, body in (("/v1/inference", {"prompt": "?"}), ("/v1/chat/completions", {"messages": []})):
        refused = worker.post(path, body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "MODEL_NOT_SERVABLE")
        assert "/v1/embeddings" in refused.json()["error"]["message"]
