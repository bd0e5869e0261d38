"""Bodies: what genai-bench's Together backend sends, by its documentation."""

import json
from typing import Any

from tbench.capture.synthesis.content import RequestContent
from tbench.capture.synthesis.generate import ENDPOINTS, body


def made(task: Any, material: RequestContent, **extra: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body(task, "m", material, extra))
    return found


def test_a_chat_has_one_user_message_and_a_fixed_length() -> None:
    """Streamed, with usage, at temperature 0; the answer may not end before max_tokens."""
    assert made("text-to-text", RequestContent(texts=["Hi"], output=7)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_without_a_length_the_answer_ends_as_it_likes() -> None:
    """No max_tokens, and ignore_eos false."""
    found = made("text-to-text", RequestContent(texts=["Hi"]))

    assert "max_tokens" not in found
    assert found["ignore_eos"] is False


def test_images_come_after_the_text() -> None:
    """As parts of the one message."""
    found = made(
        "image-text-to-text", RequestContent(texts=["What?"], images=["data:1", "http://2"])
    )

    assert found["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": "data:1"}},
                {"type": "image_url", "image_url": {"url": "http://2"}},
            ],
        }
    ]


def test_embeddings_are_a_batch_of_documents() -> None:
    """A list, also where there is one."""
    assert made("text-to-embeddings", RequestContent(texts=["a"])) == {
        "model": "m",
        "input": ["a"],
        "encoding_format": "float",
    }


def test_rerank_has_a_query_and_documents() -> None:
    """At Together's path."""
    found = made("text-to-rerank", RequestContent(query="q", texts=["a", "b"]))

    assert found == {"model": "m", "query": "q", "documents": ["a", "b"]}
    assert ENDPOINTS["text-to-rerank"].path == "/v1/rerank"


def test_additional_parameters_are_merged_last() -> None:
    """They replace what is there, null too."""
    found = made(
        "text-to-text",
        RequestContent(texts=["Hi"], output=7),
        temperature=0.7,
        stream=False,
        seed=None,
    )

    assert (found["temperature"], found["stream"], found["seed"]) == (0.7, False, None)
    assert found["max_tokens"] == 7
