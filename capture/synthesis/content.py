"""Content: what the requests of a workload say, in order, a few dozen at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.synthesis import corpus
from tbench.capture.synthesis.corpus import QUESTIONS
from tbench.capture.synthesis.images import data_url, generated
from tbench.capture.synthesis.scenario import Size
from tbench.capture.synthesis.tokens import Counted, Tokens
from tbench.capture.synthesis.workload import BATCHED, Workload

# Prompts: texts of exactly as many tokens as asked for, made of the lines of a corpus or a dataset.
#
# A text is put together from pieces of known cost, then counted whole and mended until the count is right:
# what a tokenizer makes of a text is not the sum of its pieces for all tokenizers.

PIECE = re.compile(r"\s*\S{1,16}")
"""A word with the space before it; words without end (a line of Chinese) in parts."""
FILLERS: Final = (
    " a", " the", " and", " one", " so", " it", ".", ",", "!", "-", "a", "s", "1", " x", " to", ":",
    "?", "e", "0", "z",
)  # fmt: skip
"""What may follow any text, to make it longer by little."""
_PAIRS: Final = tuple(first + second for first in FILLERS for second in FILLERS)
ATTEMPTS: Final = 200
"""How often a text is mended before it counts as impossible."""
NEARLY: Final = 3
"""So few tokens short, all ends of one or two fillers are tried."""
BARREN_LINES: Final = 3
"""So many lines in a row without a piece that fits: the rest is left to mending."""


class Wanted(NamedTuple):
    """A text to write: its tokens, all in all; what it begins with, and how many tokens of it that is."""

    tokens: int
    head: str = ""
    used: int = 0


class Prompts:
    """Writes texts from `lines`, which are drawn with replacement; `opening` makes each text's first line.

    The same draws come for the same random numbers, whatever the texts before were.
    """

    def __init__(
        self,
        tokens: Tokens,
        lines: Sequence[str] | None = None,
        opening: Callable[[Random], str] | None = None,
    ) -> None:
        self._tokens = tokens
        self._lines = corpus.pool() if lines is None else lines
        self._opening = corpus.opening if lines is None else opening
        self._costs: dict[str, float] = {}
        self._firsts: dict[str, float] = {}
        """What a piece costs that a text begins with."""
        self._parts: dict[int, tuple[list[str], float]] = {}
        """Lines by their index, as pieces with what they cost together."""
        priced = zip(FILLERS, tokens.costs(FILLERS), strict=True)
        self._fillers = sorted((pair for pair in priced if pair[1] > 0), key=lambda pair: -pair[1])
        """Those that cost something, the dearest first."""
        if not self._fillers:
            raise InputError(f"{tokens.source}: no word of ours is a token by it; give another")

    def write(self, wanted: Sequence[Wanted], rng: Random) -> list[str]:
        """The texts, each of exactly its tokens. Raises InputError where the tokenizer allows none."""
        drafts = [self._draft(text, rng) for text in wanted]
        texts = ["".join(draft) for draft in drafts]
        for index, count in enumerate(self._tokens.counts(texts)):
            if count != wanted[index].tokens:
                texts[index] = self._mended(drafts[index], wanted[index])
        return texts

    def count(self, text: str) -> int:
        """The tokens of one text."""
        return self._tokens.counts([text])[0]

    def _draft(self, wanted: Wanted, rng: Random) -> list[str]:
        """Pieces that cost about what is wanted: whole lines, then as much of one as fits."""
        pieces = [wanted.head] if wanted.head else []
        rest, barren = float(wanted.tokens - wanted.used), 0
        if self._opening:
            rest -= self._take(*self._priced(self._opening(rng)), rest, pieces)
        while rest >= 1 and barren < BARREN_LINES:
            index = rng.randrange(len(self._lines))
            if index not in self._parts:
                self._parts[index] = self._priced(self._lines[index])
            took = self._take(*self._parts[index], rest, pieces)
            barren = 0 if took else barren + 1
            rest -= took
        return pieces

    def _take(self, line: list[str], cost: float, rest: float, pieces: list[str]) -> float:
        """Append a line, or its pieces that fit; returns what they cost."""
        if pieces and cost <= rest:
            pieces += line
            return cost
        took = 0.0
        for piece in line:
            # A text does not begin with a space, and its first word is another token without one.
            begun = piece if pieces else piece.lstrip()
            if pieces:
                price = self._costs[piece]
            else:
                if begun not in self._firsts:
                    self._firsts[begun] = float(self.count(begun))
                price = self._firsts[begun]
            if took + price <= rest:
                pieces.append(begun)
                took += price
        return took

    def _priced(self, line: str) -> tuple[list[str], float]:
        """A line as pieces, with what they cost together."""
        pieces = PIECE.findall(" " + line.strip())
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._costs]
        if new:
            self._costs.update(zip(new, self._tokens.costs(new), strict=True))
        return pieces, sum(self._costs[piece] for piece in pieces)

    def _mended(self, draft: list[str], wanted: Wanted) -> str:
        """The draft made longer or shorter at its end until it counts right."""
        pieces = list(draft)
        keep = 1 if wanted.head else 0
        for attempt in range(ATTEMPTS):
            text = "".join(pieces)
            short = wanted.tokens - self.count(text)
            if short == 0 and text:
                return text
            if short < 0:
                self._shorten(pieces, -short, keep)
            elif short > NEARLY:
                filler, cost = self._fillers[0]
                for _ in range(max(1, int((short - NEARLY) / cost))):
                    pieces.append(filler if pieces else filler.lstrip())
            elif finished := self._finished(text, wanted.tokens):
                return finished
            else:
                self._shorten(pieces, attempt + 1, keep)  # more each time: not in a circle
        raise InputError(
            f"{self._tokens.source}: no text of exactly {wanted.tokens} tokens was found"
            + (" that begins with the shared prefix" if wanted.head else "")
            + "; ask for another length"
        )

    def _finished(self, text: str, tokens: int) -> str | None:
        """The text with one or two fillers so that it has exactly these tokens; None where none do."""
        for ends in FILLERS, _PAIRS:
            texts = [(text + end).lstrip() for end in ends]
            counts = self._tokens.counts(texts)
            if tokens in counts:
                return texts[counts.index(tokens)]
        return None

    def _shorten(self, pieces: list[str], over: int, keep: int) -> None:
        """Take pieces off the end that cost about `over`, at least one."""
        gone = 0.0
        while len(pieces) > keep and gone < over:
            gone += max(self._costs.get(pieces.pop(), 1.0), 0.5)


ENCODED_BYTES: Final = 256 * 2**20
"""Of encoded images that stay in memory for the next time they are drawn."""
AT_ONCE: Final = 64
"""Requests that are written and counted together: tokenizers are faster at many texts."""
TOKENS_AT_ONCE: Final = 2**20
"""So many tokens are enough together: as pieces they take some 12 bytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContent:
    """What one request says: its texts (one, or a batch of documents), its query and image addresses.

    `input` is how many tokens the texts and the query have together, None where nobody counted; `output` how
    many the answer is to have, None where that is left to the model.
    """

    texts: Sequence[str]
    query: str = ""
    images: Sequence[str] = ()
    input: int | None = None
    output: int | None = None


def materials(workload: Workload) -> Iterator[RequestContent]:
    """What each request says. Raises InputError where a length cannot be had."""
    if workload.task == "image-text-to-text":
        album = _Album(workload)
        yield from map(album.page, _sizes(workload))
        return
    if not workload.from_dataset:
        yield from _written(workload)
        return
    # Rows of the dataset as they are, drawn with replacement.
    assert workload.dataset is not None
    prompts, rng = workload.dataset.prompts, _random(workload, "rows")
    exact = isinstance(workload.tokens, Counted)
    for _ in range(workload.requests):
        drawn = rng.choices(prompts, k=_texts(workload))
        query, texts = _dealt(workload, drawn)
        tokens = sum(workload.tokens.counts(drawn)) if exact else None
        yield RequestContent(query=query, texts=texts, input=tokens)


def _written(workload: Workload) -> Iterator[RequestContent]:
    """Texts of the sizes that the scenario draws."""
    lines = None if workload.dataset is None else workload.dataset.prompts
    prompts, words = Prompts(workload.tokens, lines), _random(workload, "words")
    head = _Head(workload, prompts) if workload.prefix_tokens else None
    documents = workload.batch_size if workload.task in BATCHED else 1
    for group in _groups(workload, documents):
        wanted: list[Wanted] = []
        for number, size in group:
            assert size.input is not None
            if head:
                wanted.append(head.wanted(number, size.input))
                continue
            if size.query is not None:  # it comes first
                wanted.append(Wanted(size.query))
            wanted += [Wanted(size.input)] * documents
        texts = iter(prompts.write(wanted, words))
        for _, size in group:
            query, group_texts = _dealt(workload, [next(texts) for _ in range(_texts(workload))])
            tokens = (size.query or 0) + (size.input or 0) * len(group_texts)
            yield RequestContent(query=query, texts=group_texts, input=tokens, output=size.output)


def _groups(workload: Workload, documents: int) -> Iterator[list[tuple[int, Size]]]:
    """Sizes of requests to write together, with their numbers."""
    group, tokens = list[tuple[int, Size]](), 0
    for number, size in enumerate(_sizes(workload)):
        group.append((number, size))
        tokens += (size.query or 0) + (size.input or 0) * documents
        if len(group) == AT_ONCE or tokens >= TOKENS_AT_ONCE:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _sizes(workload: Workload) -> Iterator[Size]:
    rng = _random(workload, "sizes")
    return (workload.scenario.size(rng) for _ in range(workload.requests))


def _texts(workload: Workload) -> int:
    """How many texts a request needs."""
    return workload.batch_size + (workload.task == "text-to-rerank")


def _dealt(workload: Workload, texts: list[str]) -> tuple[str, list[str]]:
    """The texts of one request as its query and the others."""
    return (texts[0], texts[1:]) if workload.task == "text-to-rerank" else ("", texts)


def _random(workload: Workload, name: str) -> Random:
    """Random numbers of their own for each purpose: more of one does not change another."""
    return Random(f"{workload.seed} {name}")


class _Head:
    """What prompts with a shared prefix begin with: the prefix, then the request's own number."""

    def __init__(self, workload: Workload, prompts: Prompts) -> None:
        self._tokens = workload.prefix_tokens
        self._number = max(len(f"{workload.requests:x}"), 4)
        self._prompts = prompts
        (self._text,) = prompts.write(
            [Wanted(self._tokens)], Random(f"{self._tokens} prefix")
        )  # the same for every seed: a later run finds it in the cache

    def wanted(self, number: int, tokens: int) -> Wanted:
        """A whole prompt of `tokens`."""
        head = f"{self._text} {number:0{self._number}x}"
        used = self._prompts.count(head)
        if used > tokens:
            raise InputError(
                f"a shared prefix of {self._tokens} tokens and the {used - self._tokens} that tell each "
                f"request from the others do not fit into {tokens}; make the prefix shorter"
            )
        return Wanted(tokens, head, used)


class _Album:
    """Images with a question: rows of the dataset, drawn with replacement, else generated ones.

    Several images are those of several rows; the question is that of the first. Those of a dataset are
    encoded once, while ENCODED_BYTES hold them.
    """

    def __init__(self, workload: Workload) -> None:
        self._large = workload.dataset is not None and workload.dataset.large_images
        self._rows = [] if workload.dataset is None else workload.dataset.pictures
        self._rng = _random(workload, "images")
        self._urls: dict[int, str] = {}
        self._bytes = 0

    def page(self, size: Size) -> RequestContent:
        """A question and the addresses of its images."""
        if not self._rows:
            assert size.pixels is not None
            images = [generated(self._rng, size.pixels) for _ in range(size.images)]
            return RequestContent(texts=[self._rng.choice(QUESTIONS)], images=images)
        drawn = [self._rng.randrange(len(self._rows)) for _ in range(size.images)]
        question = self._rows[drawn[0]].prompt or self._rng.choice(QUESTIONS)
        images = []
        for index in drawn:
            url = self._urls.get(index)
            if url is None:
                url = data_url(self._rows[index].image, size.pixels, large=self._large)
                if self._bytes + len(url) <= ENCODED_BYTES:
                    self._urls[index] = url
                    self._bytes += len(url)
            images.append(url)
        return RequestContent(texts=[question], images=images)
