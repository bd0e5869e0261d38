"""Bodies: what genai-bench's Together backend sends, by its documentation; the same work in other APIs."""

import json
from typing import Any

import pytest

from tbench.capture.providers import parse_request
from tbench.capture.synthesis.content import RequestContent
from tbench.capture.synthesis.generate import APIS, ENDPOINTS, body


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


def test_messages_has_a_limit_and_blocks_of_data() -> None:
    """By Anthropic's reference: max_tokens is required, an image's data stand beside their type."""
    material = RequestContent(texts=["What?"], images=["data:image/png;base64,AA==", "http://2"])
    sources = (
        {"type": "base64", "media_type": "image/png", "data": "AA=="},
        {"type": "url", "url": "http://2"},
    )

    assert json.loads(body("image-text-to-text", "m", material, {}, "messages")) == {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What?"},
                    *({"type": "image", "source": source} for source in sources),
                ],
            }
        ],
        "max_tokens": 1024,
        "temperature": 0.0,
        "stream": True,
    }


def test_responses_has_its_own_limit_and_keeps_nothing() -> None:
    """By OpenAI's reference."""
    material = RequestContent(texts=["What?"], images=["data:1"], output=7)

    assert json.loads(body("image-text-to-text", "m", material, {}, "responses")) == {
        "model": "m",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What?"},
                    {"type": "input_image", "image_url": "data:1"},
                ],
            }
        ],
        "max_output_tokens": 7,
        "temperature": 0.0,
        "stream": True,
        "store": False,
    }


@pytest.mark.parametrize("api", APIS)
def test_a_body_is_what_a_provider_reads(api: Any) -> None:
    """Model, stream, limit and images, told by the provider of the path."""
    material = RequestContent(texts=["What?"], images=["data:image/png;base64,AA=="], output=7)
    data = body("image-text-to-text", "m", material, {}, api)
    info = parse_request("POST", APIS[api].path, data).info

    assert (info.endpoint, info.model, info.stream) == (api, "m", True)
    assert (info.max_tokens, info.inputs, info.images) == (7, 1, 1)


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
