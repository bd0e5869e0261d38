"""The prefix cache of the modelled engine: prompt blocks, named by everything up to their end."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 16


class PrefixCache:
    """Keeps the most recently used `capacity` blocks. A block is its chained hash (`prompt.blocks`)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def cached_tokens(self, blocks: Sequence[bytes], prompt_tokens: int) -> int:
        """Tokens of the longest cached prefix; one token at least is left to compute."""
        held = next((i for i, b in enumerate(blocks) if b not in self._blocks), len(blocks))
        self._touch(blocks[:held])
        return max(0, min(held * BLOCK_TOKENS, prompt_tokens - 1))

    def insert(self, blocks: Iterable[bytes]) -> None:
        """Keep these blocks; the least recently used go. Of one prompt, its tail goes first."""
        blocks = list(blocks)
        for block in blocks:
            self._blocks[block] = None
        self._touch(blocks)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

    def _touch(self, blocks: Sequence[bytes]) -> None:
        for block in reversed(blocks):
            self._blocks.move_to_end(block)
