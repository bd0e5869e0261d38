"""Texts for requests of which only the size is known: prompts of so many tokens, shared by hash id.

An id stands for its block and everything before it, so equal ids make equal text, in every request and run.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.exchange import Headers
from tbench.capture.importers.importer import Call, Lengths, dumped
from tbench.capture.providers import endpoint_of as provider_endpoint
from tbench.capture.synthesis.content import Prompts, RequestContent, Wanted
from tbench.capture.synthesis.generate import body, endpoint_of
from tbench.capture.synthesis.options import Api
from tbench.capture.synthesis.scenario import Task
from tbench.capture.synthesis.tokens import Tokens

REMEMBERED: Final = 8192
"""Blocks whose text is kept; another is written again when it is needed, and comes out the same."""
FORMS: Final[Mapping[str, tuple[Task, Api]]] = {
    "messages": ("text-to-text", "messages"),
    "responses": ("text-to-text", "responses"),
    "embeddings": ("text-to-embeddings", "chat"),
}
"""How the bodies of endpoints are written, by name; all others take a chat's."""
PAGE: Final = 4096
"""Tokens of the text that bodies of a known number of bytes are cut from."""


class Written(NamedTuple):
    """A request that is written: its body, and the headers that its API demands."""

    body: bytes
    headers: Headers


class Writer:
    """Writes the bodies of such requests, the same for the same seed."""

    def __init__(self, tokens: Tokens, block_tokens: int, seed: int) -> None:
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._seed = seed
        self._random = Random(f"{seed} words")
        self._blocks: OrderedDict[int, str] = OrderedDict()
        self._prompts: Prompts | None = None

    def bodies(self, calls: Sequence[Call], model: str) -> Iterator[Written]:
        """A request for each call, as its endpoint takes it.

        Raises InputError where a tokenizer allows no such length.
        """
        lengths = [call.lengths for call in calls if call.lengths is not None]
        if not lengths:
            return
        self._prompts = self._prompts or Prompts(self._tokens)
        plain = [Wanted(length.prompt) for length in lengths if not length.blocks and length.prompt]
        texts = iter(self._prompts.write(plain, self._random))
        for call, length in zip(calls, lengths, strict=True):
            asked = call.model or model
            if length.blocks:
                text = self._prefixed(self._prompts, length)
            elif length.prompt:
                text = next(texts)
            else:
                room = (length.body_bytes or 0) - len(_written(call, asked, "", length).body)
                text = self._page(self._prompts, max(room, 1))
            yield _written(call, asked, text, length)

    def _page(self, prompts: Prompts, size: int) -> str:
        """A text of so many bytes, in JSON as well."""
        (page,) = prompts.write([Wanted(PAGE)], self._random)
        plain = page.encode("ascii", "ignore").decode()
        plain = "".join(
            letter if letter.isprintable() and letter not in '"\\' else " " for letter in plain
        )
        return (plain * (size // len(plain) + 1))[:size]

    def _prefixed(self, prompts: Prompts, length: Lengths) -> str:
        """The text of full blocks, then of the last one as far as it goes."""
        head = ""
        for number in length.blocks[:-1]:
            text = self._blocks.get(number)
            if text is None:
                rng = Random(f"{self._seed} block {number}")
                (text,) = prompts.write([Wanted(self._block_tokens)], rng)
            self._blocks[number] = text
            self._blocks.move_to_end(number)
            if len(self._blocks) > REMEMBERED:
                self._blocks.popitem(last=False)
            head += text
        used = prompts.count(head) if head else 0
        while used >= length.prompt:  # a tokenizer joins blocks otherwise than it counts them
            head = head.rpartition(" ")[0]
            used = prompts.count(head) if head else 0
        rng = Random(f"{self._seed} block {length.blocks[-1]}")
        (text,) = prompts.write([Wanted(length.prompt, head, used)], rng)
        return text


def _written(call: Call, model: str, text: str, length: Lengths) -> Written:
    """The body that says this, as the call's endpoint takes it."""
    name = provider_endpoint(call.method, call.path.partition("?")[0]).name
    task, api = FORMS.get(name, ("text-to-text", "chat"))
    content = RequestContent(texts=[text], input=length.prompt, output=length.output)
    data = body(task, model, content, {}, api)
    if name == "completions":
        chat: dict[str, Any] = orjson.loads(data)
        del chat["messages"]
        data = dumped({**chat, "prompt": text})
    return Written(data, endpoint_of(task, api).headers)
