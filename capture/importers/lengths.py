"""Texts for requests of which only the length is known: prompts of so many tokens, shared by hash id.

An id stands for its block and everything before it, so equal ids make equal text, in every request and run.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from tbench.capture.importers.importer import Call, Lengths
from tbench.capture.synthesis.content import Prompts, RequestContent, Wanted
from tbench.capture.synthesis.generate import body
from tbench.capture.synthesis.tokens import Tokens

REMEMBERED: Final = 8192
"""Blocks whose text is kept; another is written again when it is needed, and comes out the same."""


class Writer:
    """Writes the bodies of such requests, the same for the same seed."""

    def __init__(self, tokens: Tokens, block_tokens: int, seed: int) -> None:
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._seed = seed
        self._random = Random(f"{seed} words")
        self._blocks: OrderedDict[int, str] = OrderedDict()
        self._prompts: Prompts | None = None

    def bodies(self, calls: Sequence[Call], model: str) -> Iterator[bytes]:
        """A chat request for each call. Raises InputError where a tokenizer allows no such length."""
        lengths = [call.lengths for call in calls if call.lengths is not None]
        if not lengths:
            return
        self._prompts = self._prompts or Prompts(self._tokens)
        plain = [Wanted(length.prompt) for length in lengths if not length.blocks]
        texts = iter(self._prompts.write(plain, self._random))
        for call, length in zip(calls, lengths, strict=True):
            text = self._prefixed(self._prompts, length) if length.blocks else next(texts)
            content = RequestContent(texts=[text], input=length.prompt, output=length.output)
            yield body("text-to-text", call.model or model, content, {})

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
