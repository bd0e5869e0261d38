"""Material: what the requests of a workload say, in order, a few dozen at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from random import Random
from typing import Final

from tbench.capture.errors import InputError
from tbench.capture.synthesis.corpus import QUESTIONS
from tbench.capture.synthesis.images import data_url, generated
from tbench.capture.synthesis.prompts import Prompts, Wanted
from tbench.capture.synthesis.scenario import Size
from tbench.capture.synthesis.tokens import Counted
from tbench.capture.synthesis.workload import BATCHED, Workload

KEPT: Final = 256 * 2**20
"""Bytes of encoded images that are kept for the next time they are drawn."""
AT_ONCE: Final = 64
"""Requests that are written and counted together: tokenizers are faster at many texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What one request says: its texts (one, or a batch of documents), its query and image addresses.

    `input` is how many tokens the texts and the query have together, None where nobody counted; `output` how
    many the answer is to have, None where that is left to the model.
    """

    texts: Sequence[str]
    query: str = ""
    images: Sequence[str] = ()
    input: int | None = None
    output: int | None = None


def materials(workload: Workload) -> Iterator[Material]:
    """The material of each request. Raises InputError where a length cannot be had."""
    if workload.task == "image-text-to-text":
        return _shown(workload)
    return _quoted(workload) if workload.from_dataset else _written(workload)


def _quoted(workload: Workload) -> Iterator[Material]:
    """Rows of the dataset as they are, drawn with replacement."""
    assert workload.dataset is not None
    prompts, rng = workload.dataset.prompts, _random(workload, "rows")
    exact = isinstance(workload.tokens, Counted)
    for _ in range(workload.requests):
        drawn = rng.choices(prompts, k=_texts(workload))
        query, texts = _dealt(workload, drawn)
        tokens = sum(workload.tokens.counts(drawn)) if exact else None
        yield Material(query=query, texts=texts, input=tokens)


def _shown(workload: Workload) -> Iterator[Material]:
    """Images with a question: rows of the dataset, drawn with replacement, else generated ones.

    Several images are those of several rows; the question is that of the first.
    """
    album, sizes = _Album(workload), _sizes(workload)
    for size in sizes:
        question, images = album.page(size)
        yield Material(texts=[question], images=images)


def _written(workload: Workload) -> Iterator[Material]:
    """Texts of the sizes that the scenario draws."""
    lines = None if workload.dataset is None else workload.dataset.prompts
    prompts, words = Prompts(workload.tokens, lines), _random(workload, "words")
    head = _Head(workload, prompts) if workload.prefix_tokens else None
    for group in batched(enumerate(_sizes(workload)), AT_ONCE):
        wanted = [one for number, size in group for one in _wanted(workload, size, head, number)]
        texts = iter(prompts.write(wanted, words))
        for _, size in group:
            query, found = _dealt(workload, [next(texts) for _ in range(_texts(workload))])
            tokens = (size.query or 0) + (size.input or 0) * len(found)
            yield Material(query=query, texts=found, input=tokens, output=size.output)


def _sizes(workload: Workload) -> Iterator[Size]:
    rng = _random(workload, "sizes")
    return (workload.scenario.size(rng) for _ in range(workload.requests))


def _wanted(workload: Workload, size: Size, head: "_Head | None", number: int) -> list[Wanted]:
    """The texts of one request: the query first, where there is one."""
    assert size.input is not None
    if head:
        return [head.wanted(number, size.input)]
    documents = [Wanted(size.input)] * (workload.batch_size if workload.task in BATCHED else 1)
    return documents if size.query is None else [Wanted(size.query), *documents]


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
    """The images of a workload; those of a dataset are encoded once, while `KEPT` bytes hold them."""

    def __init__(self, workload: Workload) -> None:
        self._large = workload.dataset is not None and workload.dataset.large_images
        self._rows = [] if workload.dataset is None else workload.dataset.pictures
        self._rng = _random(workload, "images")
        self._kept: dict[int, str] = {}
        self._bytes = 0

    def page(self, size: Size) -> tuple[str, list[str]]:
        """A question and the addresses of its images."""
        if not self._rows:
            assert size.pixels is not None
            made = [generated(self._rng, size.pixels) for _ in range(size.images)]
            return self._rng.choice(QUESTIONS), made
        drawn = [self._rng.randrange(len(self._rows)) for _ in range(size.images)]
        question = self._rows[drawn[0]].prompt or self._rng.choice(QUESTIONS)
        return question, [self._url(index, size) for index in drawn]

    def _url(self, index: int, size: Size) -> str:
        url = self._kept.get(index)
        if url is None:
            url = data_url(self._rows[index].image, size.pixels, large=self._large)
            if self._bytes + len(url) <= KEPT:
                self._kept[index] = url
                self._bytes += len(url)
        return url
