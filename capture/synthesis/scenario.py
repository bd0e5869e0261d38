"""Scenario: how large the requests of a workload are, in genai-bench's grammar. Parsing and sampling.

`D(100,100)`, `N(480,240)/(300,150)`, `U(50,100)/(200,250)`, `E(64)`, `R(128,100)`, `I(512,512)`, `dataset`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, NamedTuple

from tbench.capture.errors import InputError

Task = Literal["text-to-text", "image-text-to-text", "text-to-embeddings", "text-to-rerank"]

MOST_TOKENS: Final = 10_000_000
MOST_PIXELS: Final = 16_384
"""Of an image's side."""
MOST_IMAGES: Final = 100

LEAST_INPUT: Final = 1
LEAST_OUTPUT: Final = 2
"""Where N and U clamp what they drew: two tokens are the least that has a time per output token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one request is to be: tokens of a text (each document's), of the answer, of the query; images.

    None where the scenario leaves it to the dataset or to the server. `pixels` is width and height.
    """

    input: int | None = None
    output: int | None = None
    query: int | None = None
    pixels: tuple[int, int] | None = None
    images: int = 1


@dataclass(frozen=True, slots=True)
class Scenario:
    """A parsed scenario: what was written, the letter of its form (or `dataset`) and its numbers."""

    text: str
    form: str
    numbers: tuple[int, ...] = ()

    def size(self, rng: Random) -> Size:
        """The size of the next request."""
        return FORMS[self.form].draw(self.numbers, rng)

    def __str__(self) -> str:
        return self.text


class Form(NamedTuple):
    """One kind of scenario: how it is written, the least and most of its numbers, how sizes are drawn."""

    shape: str
    example: str
    pattern: str
    bounds: tuple[tuple[int, int], ...]
    draw: Callable[[tuple[int, ...], Random], Size]
    check: Callable[[tuple[int, ...]], str | None] = lambda _: None


def parse(text: str) -> Scenario:
    """The scenario that `text` writes. Raises InputError that names the right form."""
    written = text.strip()
    if re.match(r"A\b", written, re.IGNORECASE):
        raise InputError(
            f"scenario '{text}': A(characters) is for speech, which tbench does not send"
        )
    letters = (each for each in FORMS if re.match(rf"{each}(?![A-Za-z])", written, re.IGNORECASE))
    letter = next(letters, None)
    if letter is None:
        shapes = ", ".join(form.shape for form in FORMS.values())
        raise InputError(f"scenario '{text}': not one of {shapes}")
    form = FORMS[letter]
    match = re.fullmatch(form.pattern, written, re.ASCII)
    right = f"the right form is {form.shape}, such as {form.example}"
    if not match:
        raise InputError(f"scenario '{text}': {right} (whole numbers, no spaces)")
    numbers = tuple(int(word) for word in match.groups() if word is not None)
    if letter == "U" and len(numbers) == 2:  # what may be left out
        numbers = (LEAST_INPUT, numbers[0], LEAST_OUTPUT, numbers[1])
    if letter == "I" and len(numbers) == 2:
        numbers = (*numbers, 1)
    for number, (least, most) in zip(numbers, form.bounds, strict=True):
        if not least <= number <= most:
            raise InputError(
                f"scenario '{text}': {number} is not from {least} to {most:,}; {right}"
            )
    if wrong := form.check(numbers):
        raise InputError(f"scenario '{text}': {wrong}; {right}")
    return Scenario(written, letter, numbers)


def check_task(scenario: Scenario, task: Task) -> None:
    """Raise InputError for a scenario that says nothing about requests of this task."""
    if scenario.form not in SCENARIOS[task]:
        known = " or ".join(FORMS[form].shape for form in SCENARIOS[task])
        raise InputError(f"scenario {scenario}: {task} takes {known}")


def _normal(numbers: tuple[int, ...], rng: Random) -> Size:
    mean_in, sd_in, mean_out, sd_out = numbers
    return Size(
        input=max(LEAST_INPUT, round(rng.gauss(mean_in, sd_in))),
        output=max(LEAST_OUTPUT, round(rng.gauss(mean_out, sd_out))),
    )


def _uniform(numbers: tuple[int, ...], rng: Random) -> Size:
    """Whole numbers, both ends among them."""
    low_in, high_in, low_out, high_out = numbers
    return Size(
        input=max(LEAST_INPUT, rng.randint(low_in, high_in)),
        output=max(LEAST_OUTPUT, rng.randint(low_out, high_out)),
    )


_TOKENS, _SPREAD, _SIDE = (1, MOST_TOKENS), (0, MOST_TOKENS), (1, MOST_PIXELS)

FORMS: Final[Mapping[str, Form]] = {
    "D": Form(
        "D(in,out)", "D(100,100)", r"D\((\d{1,18}),(\d{1,18})\)", (_TOKENS, _TOKENS),
        lambda n, _: Size(input=n[0], output=n[1]),
    ),
    "N": Form(
        "N(mean_in,sd_in)/(mean_out,sd_out)", "N(480,240)/(300,150)",
        r"N\((\d{1,18}),(\d{1,18})\)/\((\d{1,18}),(\d{1,18})\)",
        (_TOKENS, _SPREAD, _TOKENS, _SPREAD), _normal,
    ),
    "U": Form(
        "U(min_in,max_in)/(min_out,max_out) or U(max_in,max_out)", "U(50,100)/(200,250)",
        r"U\((\d{1,18}),(\d{1,18})\)(?:/\((\d{1,18}),(\d{1,18})\))?",
        (_SPREAD, _TOKENS, _SPREAD, (LEAST_OUTPUT, MOST_TOKENS)), _uniform,
        lambda n: "a minimum is over its maximum" if n[0] > n[1] or n[2] > n[3] else None,
    ),
    "E": Form(
        "E(tokens_per_document)", "E(256)", r"E\((\d{1,18})\)", (_TOKENS,),
        lambda n, _: Size(input=n[0]),
    ),
    "R": Form(
        "R(document_tokens,query_tokens)", "R(512,100)", r"R\((\d{1,18}),(\d{1,18})\)",
        (_TOKENS, _TOKENS), lambda n, _: Size(input=n[0], query=n[1]),
    ),
    "I": Form(
        "I(width,height[,images])", "I(512,512)", r"I\((\d{1,18}),(\d{1,18})(?:,(\d{1,18}))?\)",
        (_SIDE, _SIDE, (1, MOST_IMAGES)), lambda n, _: Size(pixels=(n[0], n[1]), images=n[2]),
    ),
    "dataset": Form("dataset", "dataset", "dataset", (), lambda _n, _r: Size()),
}  # fmt: skip
"""Letter -> form. Tokens are from 1; a spread or a minimum may be 0."""

SCENARIOS: Final[Mapping[Task, tuple[str, ...]]] = {
    "text-to-text": ("D", "N", "U", "dataset"),
    "image-text-to-text": ("I", "dataset"),
    "text-to-embeddings": ("E", "dataset"),
    "text-to-rerank": ("R", "dataset"),
}
"""The forms that each task takes."""

DEFAULTS: Final[Mapping[Task, tuple[str, ...]]] = {
    "text-to-text": (
        "N(480,240)/(300,150)", "D(100,100)", "D(100,1000)", "D(2000,200)", "D(7800,200)",
    ),
    "image-text-to-text": ("I(512,512)", "I(1024,512)", "I(2048,2048)"),
    "text-to-embeddings": ("E(64)", "E(128)", "E(256)", "E(512)", "E(1024)"),
    "text-to-rerank": (
        "R(64,100)", "R(128,100)", "R(256,100)", "R(512,100)", "R(1024,100)", "R(2048,100)",
        "R(4096,100)",
    ),
}  # fmt: skip
"""What a benchmark runs where neither a scenario nor a dataset is given: genai-bench's own defaults."""
