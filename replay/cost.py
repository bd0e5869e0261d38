"""What a replay costs: prices of models, and sums that say what they could not price.

Prices are from tables (replay.price_table). A model that is in none has no price, rather than a guessed one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING, Outcome
from tbench.capture.providers import Usage


class Price(NamedTuple):
    """US dollars per million tokens.

    Prompt tokens that were read from a cache (`cached`) or written to one (`created`) cost as any other where
    they have no price of their own. That of writing is for five minutes: for an hour Anthropic takes more.
    `context` is how many tokens a prompt and its output can have together, `picture` how many one has at the
    most, `source` who says all this.
    """

    prompt: float
    output: float
    cached: float | None = None
    created: float | None = None
    context: int | None = None
    source: str = ""
    picture: int | None = None

    @property
    def written(self) -> str:
        """As `--price` has it after the model."""
        figures = [self.prompt, self.output, self.cached, self.created]
        while figures[-1] is None:
            del figures[-1]
        return "/".join(f"{self.prompt if figure is None else figure:g}" for figure in figures)


FIGURES: Final = ("prompt", "output", "cached", "created")
"""What is in US dollars per million tokens; the first two have to be there."""
DEAREST: Final = 1e9
"""The highest price that is taken: what is more is a mistake, and sums of it would be no numbers."""
FREE: Final = (Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR, Outcome.CLIENT_LIMIT)
"""Outcomes that cost nothing where no tokens were counted; after any other the server may have worked."""
BY_OPTION: Final = "--price"
"""The source of a price that was given on the command line."""


def parse_prices(words: Sequence[str]) -> dict[str, Price]:
    """`MODEL=PROMPT/OUTPUT[/CACHED[/CREATED]]` words, US dollars per million tokens, as a map."""
    prices = {}
    for word in words:
        model, mark, text = word.rpartition("=")
        try:
            figures = [float(figure) for figure in text.split("/")]
        except ValueError:
            figures = []
        priced = 2 <= len(figures) <= 4 and all(0 <= figure <= DEAREST for figure in figures)
        if not (model and mark and priced):
            raise InputError(
                f"--price {word!r}: write it as MODEL=PROMPT/OUTPUT[/CACHED[/CREATED]], US dollars per "
                "million tokens"
            )
        if model in prices:
            raise InputError(f"--price {word!r}: {model} is priced twice")
        prices[model] = Price(**dict(zip(FIGURES, figures, strict=False)))  # type: ignore[arg-type]
    return prices


def as_prices(given: Mapping[str, Any]) -> dict[str, Price]:
    """Prices by model, each a Price or as `--price` has it after the model."""
    return {
        model: price if isinstance(price, Price) else parse_prices([f"{model}={price}"])[model]
        for model, price in given.items()
    }


def prices_written(prices: Mapping[str, Price | str]) -> dict[str, str]:
    """Prices by model as a plan file has them; whatever is no Price stays."""
    return {
        model: price.written if isinstance(price, Price) else price
        for model, price in prices.items()
    }


def cost(price: Price, usage: Usage) -> float:
    """US dollars for so many tokens, in which `cached` and `created` are among the prompt's; None is none."""
    prompt = usage.prompt or 0
    # A server that names more cached tokens than prompt tokens would else be paid for reading.
    cached = min(usage.cached or 0, prompt)
    created = min(usage.created or 0, prompt - cached)
    tokens = (
        (prompt - cached - created, price.prompt),
        (cached, price.prompt if price.cached is None else price.cached),
        (created, price.prompt if price.created is None else price.created),
        (usage.output or 0, price.output),
    )
    return sum(count * each for count, each in tokens) / 1e6


def cost_at_most(price: Price, usage: Usage) -> float:
    """US dollars for so many tokens, whatever part of the prompt is read from a cache or written to one."""
    figures = (price.prompt, price.cached, price.created)
    dearest = max(figure for figure in figures if figure is not None)
    return cost(Price(dearest, price.output), usage)


def expected(recorded: Usage, max_tokens: int | None) -> Usage:
    """The tokens to expect of a request sent again: as recorded, else as much output as it allows.

    No cached tokens are counted on: whether the target still holds the prefix is not known.
    """
    output = max_tokens if recorded.output is None else recorded.output
    return Usage(prompt=recorded.prompt, output=output)


@dataclass(slots=True)
class Bill:
    """A running sum in US dollars, with what it leaves out.

    `unpriced` counts the requests of each model without a known price, `uncounted` the requests that may have
    been charged and whose prompt tokens are not known. Where either is not empty, `usd` is a lower bound.
    `prices` are what models cost.
    """

    prices: Mapping[str, Price] = field(default=NOTHING)
    usd: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    unpriced: Counter[str] = field(default_factory=Counter)

    def add(self, model: str | None, usage: Usage, outcome: Outcome = Outcome.OK) -> None:
        """One request's tokens. Unknown output (an embedding, a failure) costs nothing."""
        if usage.prompt is None:
            self.uncounted += outcome not in FREE
            return
        self.prompt_tokens += usage.prompt
        self.output_tokens += usage.output or 0
        if price := self.prices.get(model or ""):
            self.usd += cost(price, usage)
        else:
            self.unpriced[model or "(no model)"] += 1

    @property
    def complete(self) -> bool:
        """Whether everything added has its price in `usd`."""
        return not self.uncounted and not self.unpriced
