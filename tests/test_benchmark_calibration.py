"""How long a server's tokens are, told from its own counts, and when they cannot tell it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.benchmark.calibration import UncalibratedError, fitted
from tests.answering import Given, Received, answering, chat
from tests.conftest import Done

SENT = [280, 301, 315, 322, 334, 350, 2301, 2350, 2377, 2402, 2433, 2460]
"""Characters of texts of about 64 and 512 tokens."""
NO_ROOM = "--max-cost leaves no room to ask how long its tokens are"
RATIOS = st.floats(0.25, 16)


def chars_of(received: Received) -> int:
    return sum(len(message["content"]) for message in received.json["messages"])


def words(url: str, *more: str) -> list[str]:
    return [
        "benchmark", "--api-backend", "vllm", "--api-base", url, "--api-model-name", "m", "--task",
        "text-to-text", "--num-concurrency", "1", "--traffic-scenario", "D(100,4)",
        "--max-requests-per-run", "3", "--experiment-folder-name", "x", "--no-summary", *more,
    ]  # fmt: skip


def test_no_constant_count_is_a_measure() -> None:
    """The least-squares slope of equal counts is rounding noise, of either sign."""
    for count in range(1, 2001):
        with pytest.raises(UncalibratedError, match="do not grow"):
            fitted([(chars, count) for chars in SENT])


@given(st.lists(st.integers(1, 3000), min_size=12, max_size=12), st.randoms())
def test_no_count_drawn_without_regard_to_the_text_is_a_measure(
    counts: list[int], random: object
) -> None:
    """A line through noise is believed only where the texts' lengths explain the counts."""
    shorts, longs = counts[:6], counts[6:]
    if max(min(shorts), min(longs)) > min(max(shorts), max(longs)):  # one length's are all larger
        return
    with pytest.raises(UncalibratedError):
        fitted(list(zip(SENT, counts, strict=True)))


@given(ratio=RATIOS, overhead=st.integers(0, 500))
def test_whole_counts_give_the_ratio_back(ratio: float, overhead: int) -> None:
    """Whatever a template adds to each message."""
    found = fitted([(chars, round(chars / ratio) + overhead) for chars in SENT])

    assert found.chars_per_token == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("ratio", [0.05, 60.0])
def test_a_ratio_of_no_tokenizer_is_none(ratio: float) -> None:
    """Prompts built by it would be endless, or of a few characters."""
    with pytest.raises(UncalibratedError, match=r"which no tokenizer does \(0.2 to 20\)"):
        fitted([(chars, round(chars / ratio)) for chars in SENT])


@pytest.mark.parametrize("sent", [SENT[:5], SENT[:6] + SENT[:6]])
def test_texts_of_one_length_are_too_few(sent: list[int]) -> None:
    """A slope between texts that hardly differ is that of their template."""
    with pytest.raises(UncalibratedError, match="too few"):
        fitted([(chars, chars // 4) for chars in sent])


def test_a_server_of_constant_counts_is_benchmarked_with_estimated_lengths(
    tbench: Callable[..., Done],
) -> None:
    """It says so, names the option that helps, and ends."""
    with answering(lambda _: chat(prompt_tokens=17)) as server:
        done = tbench(*words(server.url))
        longest = max(map(chars_of, server.received[12:]))

    assert done.ended, done.err
    assert "counts of prompt tokens do not grow with the prompt (17 to 17 of" in done.err
    assert "--model-tokenizer makes them exact" in done.err
    assert longest < 1000, "100 tokens of English"


@pytest.mark.parametrize(
    ("context", "says"),
    [(400, "characters a token, by the server's counts"), (90, "takes no prompt of 128 tokens")],
)
def test_a_small_context_is_asked_with_shorter_prompts(
    tbench: Callable[..., Done], context: int, says: str
) -> None:
    """It is tbench's own prompt that was too long, not the model that was wrong."""

    def answer(received: Received) -> Given:
        tokens = -(-chars_of(received) // 4)
        if tokens <= context:
            return chat(prompt_tokens=tokens)
        return Given([b'{"error": {"message": "maximum context length exceeded"}}'], status=400)

    with answering(answer) as server:
        done = tbench(*words(server.url, "--traffic-scenario", "D(20,4)"))

    assert done.ended, done.err
    assert says in done.err
    assert "lengths: 6 requests of about 256 tokens" in done.err


def test_counts_are_asked_for_before_the_first_point(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """A server without any is asked once."""

    def answer(_: Received) -> Given:
        return Given(
            [b'{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"stop"}]}']
        )

    with answering(answer) as server:
        done = tbench(*words(server.url))

    assert done.ended, done.err
    assert "no counts of prompt tokens from the server: lengths are estimated" in done.err
    assert len(server.received) == 6 + 3


@pytest.mark.parametrize(
    ("budget", "says", "code"),
    [
        (0.2, NO_ROOM, 2),  # nor for any request of a point
        (3.0, NO_ROOM, 3),
        (20.0, "characters a token, by the server's counts", 3),
    ],
)
def test_a_small_budget_is_not_spent_on_lengths(
    tbench: Callable[..., Done], tmp_path: Path, budget: float, says: str, code: int
) -> None:
    """Each byte is billed as a token: what there is no room for is not asked, and a point is begun."""
    (tmp_path / "p.toml").write_text(
        "[[list]]\n[list.models]\nm = { prompt = 1000, output = 1000 }\n"
    )
    billed: list[int] = []

    def answer(received: Received) -> Given:
        billed.append(len(received.body) + received.json["max_tokens"])
        return chat(prompt_tokens=len(received.body), tokens=received.json["max_tokens"])

    with answering(answer) as server:
        given = words(server.url, "--prices", "p.toml", "--max-requests-per-run", "60")
        done = tbench(*given, "--max-cost", budget)
        spent, asked = sum(billed) / 1e3, len(billed)
        higher = tbench(*given, "--max-cost", 100, "--resume")

    assert says in done.err
    assert done.code == code, done.err
    assert spent <= budget
    assert 6 * done.err.count("lengths: 6 requests of about") <= asked
    assert (asked == 0) == (code == 2)
    assert (code == 3) == ("with 1 point still to be made" in done.err)
    assert higher.code in {0, 4}, higher.err
    assert "characters a token, by the server's counts" in higher.err
