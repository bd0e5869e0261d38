"""What a replay costs: list prices, and sums that say what they could not price.

Prices are models.dev's list for Together AI of 2026-07-02 and Anthropic's own of 2025-11 by dated ids, in
US dollars per million tokens. A model that is not listed has no price here, rather than a guessed one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tbench.capture.errors import InputError
from tbench.capture.exchange import NOTHING
from tbench.capture.providers import Usage


class Price(NamedTuple):
    """US dollars per million tokens.

    Prompt tokens that were read from a cache (`cached`) or written to one (`created`) cost as any other where
    they have no price of their own. That of writing is for five minutes: for an hour Anthropic takes more.
    """

    prompt: float
    output: float
    cached: float | None = None
    created: float | None = None

    @property
    def written(self) -> str:
        """As `--price` has it after the model."""
        return "/".join(f"{figure:g}" for figure in self if figure is not None)


PRICES: dict[str, Price] = {
    "openai/gpt-oss-20b": Price(0.05, 0.20),
    "openai/gpt-oss-120b": Price(0.15, 0.60),
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": Price(0.88, 0.88),
    "meta-llama/Meta-Llama-3-8B-Instruct-Lite": Price(0.14, 0.14),
    "Qwen/Qwen3.5-9B": Price(0.17, 0.25),
    "Qwen/Qwen2.5-7B-Instruct-Turbo": Price(0.30, 0.30),
    "Qwen/Qwen3.6-Plus": Price(0.50, 3.00),
    "Qwen/Qwen3.7-Max": Price(1.25, 3.75),
    "Qwen/Qwen3.5-397B-A17B": Price(0.60, 3.60),
    "google/gemma-3n-E4B-it": Price(0.06, 0.12),
    "google/gemma-4-31B-it": Price(0.39, 0.97),
    "moonshotai/Kimi-K2.6": Price(1.20, 4.50, 0.20),
    "moonshotai/Kimi-K2.7-Code": Price(0.95, 4.00, 0.19),
    "deepseek-ai/DeepSeek-V4-Pro": Price(1.74, 3.48, 0.20),
    "zai-org/GLM-5.2": Price(1.40, 4.40, 0.26),
    "zai-org/GLM-5.1": Price(1.40, 4.40),
    "zai-org/GLM-5": Price(1.00, 3.20),
    "MiniMaxAI/MiniMax-M2.7": Price(0.30, 1.20, 0.06),
    "MiniMaxAI/MiniMax-M3": Price(0.30, 1.20, 0.06),
    "nvidia/nemotron-3-ultra-550b-a55b": Price(0.60, 3.60, 0.20),
    "deepcogito/cogito-v2-1-671b": Price(1.25, 1.25),
    "LiquidAI/LFM2-24B-A2B": Price(0.03, 0.12),
    "claude-opus-4-5-20251101": Price(5.00, 25.00, 0.50, 6.25),
    "claude-opus-4-1-20250805": Price(15.00, 75.00, 1.50, 18.75),
    "claude-sonnet-4-5-20250929": Price(3.00, 15.00, 0.30, 3.75),
    "claude-haiku-4-5-20251001": Price(1.00, 5.00, 0.10, 1.25),
}


def price_of(model: str | None, prices: Mapping[str, Price] = NOTHING) -> Price | None:
    """The price of a model by its exact id, of `prices` before the list's; None where it is not known."""
    return None if model is None else prices.get(model) or PRICES.get(model)


def parse_prices(words: Sequence[str]) -> dict[str, Price]:
    """`MODEL=PROMPT/OUTPUT[/CACHED[/CREATED]]` words, US dollars per million tokens, as a map."""
    prices = {}
    for word in words:
        model, mark, text = word.rpartition("=")
        try:
            price = Price(*map(float, text.split("/")))
        except (ValueError, TypeError):
            price = Price(math.nan, 0)
        if not (model and mark) or not all(
            figure is None or 0 <= figure < math.inf for figure in price
        ):
            raise InputError(
                f"--price {word!r}: write it as MODEL=PROMPT/OUTPUT[/CACHED[/CREATED]], US dollars per "
                "million tokens"
            )
        prices[model] = price
    return prices


def prices_written(prices: Mapping[str, Price | str]) -> dict[str, str]:
    """Prices by model as a plan file has them; those that are written already stay."""
    return {
        model: price if isinstance(price, str) else price.written for model, price in prices.items()
    }


def cost(price: Price, usage: Usage) -> float:
    """US dollars for so many tokens, in which `cached` and `created` are among the prompt's; None is none."""
    prompt = usage.prompt or 0
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
    dearest = max(figure for figure in (price.prompt, *price[2:]) if figure is not None)
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

    `unpriced` counts the requests of each model without a known price, `uncounted` the requests whose
    prompt tokens are not known. Where either is not empty, `usd` is a lower bound. `prices` go before the
    list's.
    """

    prices: Mapping[str, Price] = field(default=NOTHING)
    usd: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    uncounted: int = 0
    unpriced: Counter[str] = field(default_factory=Counter)

    def add(self, model: str | None, usage: Usage) -> None:
        """One request's tokens. Unknown output (an embedding, a failure) costs nothing."""
        if usage.prompt is None:
            self.uncounted += 1
            return
        self.prompt_tokens += usage.prompt
        self.output_tokens += usage.output or 0
        if price := price_of(model, self.prices):
            self.usd += cost(price, usage)
        else:
            self.unpriced[model or "(no model)"] += 1

    @property
    def complete(self) -> bool:
        """Whether everything added has its price in `usd`."""
        return not self.uncounted and not self.unpriced
