"""List prices and running sums, by hand-computed values."""

import pytest

from tbench.capture.providers import Usage
from tbench.replay.cost import PRICES, Bill, Price, cost, expected, price_of


def test_a_known_model_has_its_list_price() -> None:
    """Prices are per million tokens, by exact id."""
    assert price_of("openai/gpt-oss-20b") == Price(0.05, 0.20)


@pytest.mark.parametrize("model", [None, "", "gpt-oss-20b", "OPENAI/gpt-oss-20b", "no/such-model"])
def test_an_unknown_model_has_no_price(model: str | None) -> None:
    """A price is never guessed from a similar name."""
    assert price_of(model) is None


def test_cached_tokens_have_their_own_price() -> None:
    """1M prompt tokens of which half cached, and 1M output: .60 + .10 + 4.50."""
    price = PRICES["moonshotai/Kimi-K2.6"]
    assert cost(price, prompt=1_000_000, output=1_000_000, cached=500_000) == pytest.approx(5.20)


def test_cached_tokens_without_a_price_cost_as_any() -> None:
    """No discount is assumed, and more cached than prompt tokens are not believed."""
    assert cost(Price(1, 2), prompt=100, output=0, cached=900) == pytest.approx(100 / 1e6)


def test_expected_tokens_prefer_the_record() -> None:
    """Recorded output first, the request's limit otherwise; no cache hit is counted on."""
    recorded = Usage(prompt=10, output=5, cached=8)
    assert expected(recorded, 100) == Usage(prompt=10, output=5)
    assert expected(Usage(prompt=10), 100) == Usage(prompt=10, output=100)
    assert expected(Usage(), None) == Usage()


def test_a_bill_says_what_it_leaves_out() -> None:
    """Unknown prices and unknown token counts are counted, not taken for nothing."""
    bill = Bill()
    bill.add("openai/gpt-oss-120b", Usage(prompt=1_000_000, output=1_000_000))
    assert bill.complete
    bill.add("no/such-model", Usage(prompt=7, output=1))
    bill.add("openai/gpt-oss-120b", Usage(output=5))
    bill.add("openai/gpt-oss-120b", Usage(prompt=1_000_000))
    assert bill.usd == pytest.approx(0.90)
    assert (bill.uncounted, dict(bill.unpriced)) == (1, {"no/such-model": 1})
    assert (bill.prompt_tokens, bill.output_tokens) == (2_000_007, 1_000_001)
    assert not bill.complete
