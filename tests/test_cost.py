"""List prices and running sums, by hand-computed values."""

from typing import Any

import orjson
import pytest

from tbench.capture.providers import Usage, parse_response
from tbench.replay.cost import Bill, Price, cost, cost_at_most, expected
from tbench.replay.price_table import prices_at


def test_cached_tokens_have_their_own_price() -> None:
    """1M prompt tokens of which half cached, and 1M output: .60 + .10 + 4.50."""
    price = prices_at("api.together.xyz")["moonshotai/Kimi-K2.6"]
    usage = Usage(prompt=1_000_000, output=1_000_000, cached=500_000)
    assert cost(price, usage) == pytest.approx(5.20)


def test_cached_tokens_without_a_price_cost_as_any() -> None:
    """No discount is assumed, and more cached than prompt tokens are not believed."""
    assert cost(Price(1, 2), Usage(prompt=100, cached=900)) == pytest.approx(100 / 1e6)
    assert cost(Price(1, 2), Usage(prompt=100, cached=60, created=90)) == pytest.approx(100 / 1e6)


SONNET = prices_at("api.anthropic.com")["claude-sonnet-4-5-20250929"]


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        # Anthropic: 100,000 fresh, 800,000 read, 200,000 written, 10,000 out: .30 + .24 + .75 + .15.
        (
            {
                "input_tokens": 100_000,
                "cache_read_input_tokens": 800_000,
                "cache_creation_input_tokens": 200_000,
                "output_tokens": 10_000,
            },
            1.44,
        ),
        # OpenAI: 1,100,000 in all, of which 800,000 read: 300,000 fresh; .90 + .24 + .15.
        (
            {
                "input_tokens": 1_100_000,
                "input_tokens_details": {"cached_tokens": 800_000},
                "output_tokens": 10_000,
                "output_tokens_details": {"reasoning_tokens": 4_000},
            },
            1.29,
        ),
        # A chat's names for the same.
        (
            {
                "prompt_tokens": 1_100_000,
                "prompt_tokens_details": {"cached_tokens": 800_000},
                "completion_tokens": 10_000,
            },
            1.29,
        ),
    ],
)
def test_each_maker_counts_its_own_way(usage: dict[str, Any], dollars: float) -> None:
    """What `input_tokens` leaves out in Messages is in it in Responses; each token is paid for once."""
    kinds: tuple[dict[str, Any], ...] = (
        {"type": "message", "content": [], "stop_reason": "end_turn"},
        {"object": "response", "status": "completed", "output": []},
        {"choices": []},
    )
    reads = (
        "cache_read_input_tokens" in usage,
        "input_tokens_details" in usage,
        "prompt_tokens" in usage,
    )
    body = orjson.dumps({**kinds[reads.index(True)], "usage": usage})
    answer = parse_response([(0.0, body)], content_type="application/json")

    assert cost(SONNET, answer.usage) == pytest.approx(dollars)


@pytest.mark.parametrize(
    ("price", "dollars"),
    [(SONNET, 3.75), (Price(3, 15, 0.3, 0), 3.0), (Price(3, 15, 4), 4.0), (Price(3, 15), 3.0)],
)
def test_a_request_may_cost_what_its_dearest_prompt_does(price: Price, dollars: float) -> None:
    """A bound that --max-cost is kept by: 1M prompt tokens, and who knows how many of a cache's."""
    assert cost_at_most(price, Usage(prompt=1_000_000)) == pytest.approx(dollars)


def test_expected_tokens_prefer_the_record() -> None:
    """Recorded output first, the request's limit otherwise; no cache hit is counted on."""
    recorded = Usage(prompt=10, output=5, cached=8)
    assert expected(recorded, 100) == Usage(prompt=10, output=5)
    assert expected(Usage(prompt=10), 100) == Usage(prompt=10, output=100)
    assert expected(Usage(), None) == Usage()


def test_a_bill_says_what_it_leaves_out() -> None:
    """Unknown prices and unknown token counts are counted, not taken for nothing."""
    bill = Bill(prices=prices_at("api.together.xyz"))
    bill.add("openai/gpt-oss-120b", Usage(prompt=1_000_000, output=1_000_000))
    assert bill.complete
    bill.add("no/such-model", Usage(prompt=7, output=1))
    bill.add("openai/gpt-oss-120b", Usage(output=5))
    bill.add("openai/gpt-oss-120b", Usage(prompt=1_000_000))
    assert bill.usd == pytest.approx(0.90)
    assert (bill.uncounted, dict(bill.unpriced)) == (1, {"no/such-model": 1})
    assert (bill.prompt_tokens, bill.output_tokens) == (2_000_007, 1_000_001)
    assert not bill.complete
