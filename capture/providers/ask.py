"""Ask: what a request wants of the model, read from its path and body."""

from typing import Final, NamedTuple

GENERATIVE: Final = frozenset({"chat", "completions"})
"""The endpoints that one and the same text model serves."""


class Ask(NamedTuple):
    """One request in the words of its API. What it does not say is None, or the API's default.

    `endpoint` is chat, completions, embeddings, rerank, images, audio, models or other. `n` is how many
    answers are wanted. `inputs` counts messages, prompts, embedding inputs or rerank documents, `images`
    the pictures among them. `replayable` means stateless inference: sending it again costs tokens and
    changes nothing.
    """

    endpoint: str = "other"
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    inputs: int = 0
    images: int = 0
    replayable: bool = False
