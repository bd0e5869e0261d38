"""Price tables: a model has the price of its host, by the first that knows it, and no other."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tbench.capture.errors import InputError
from tbench.replay.api import replay
from tbench.replay.closing import priced
from tbench.replay.cost import Price
from tbench.replay.price_table import LISTED, prices_at, read_price_lists
from tbench.replay.runfile import read_run
from tbench.replay.totals import price_sources
from tests.answering import Given, answering
from tests.answering import chat as answer
from tests.conftest import Done
from tests.test_replay_end_to_end import CHAT, chat, write_trace

GPT = "openai/gpt-oss-20b"
TABLE = """
[[list]]
source = "my contract"
date = 2026-11-01
hosts = ["*.example.com", "127.0.0.1"]
[list.models]
"mine" = { prompt = 1, output = 2.5, created = 4, context = 8192 }
"openai/gpt-oss-20b" = { prompt = 7, output = 8 }

[[list]]
[list.models]
"anywhere" = { prompt = 0, output = 0 }
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TABLE)
    return path


def test_a_listed_model_has_the_price_of_its_makers_host() -> None:
    price = prices_at("api.together.xyz")[GPT]

    assert price[:4] == (0.05, 0.20, None, None)
    assert price.source == f"{LISTED} (models.dev for Together AI, 2026-07-02)"


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("api.together.xyz", "gpt-oss-20b"),
        ("api.together.xyz", "OPENAI/gpt-oss-20b"),
        ("api.together.xyz", "claude-opus-4-5-20251101"),
        ("api.fireworks.ai", GPT),
        ("api.openai.com", GPT),
    ],
)
def test_a_price_is_never_guessed(host: str, model: str) -> None:
    """Neither from a similar name, nor from another host that serves a model of the same name."""
    assert model not in prices_at(host)


def test_what_is_given_goes_before_a_file_and_that_before_the_list(table: Path) -> None:
    prices = prices_at("LLM.example.com", {"mine": Price(9, 9)}, table)

    assert prices["mine"] == Price(9, 9)
    assert prices[GPT][:2] == (7, 8)
    assert prices[GPT].source == "mine.toml (my contract, 2026-11-01)"
    assert "anywhere" in prices_at("else.where", {}, table)
    assert "mine" not in prices_at("else.where", {}, table)


def test_a_price_is_written_as_it_is_read(table: Path) -> None:
    """What a cache gave has no price of its own here, what was written to one has."""
    assert prices_at("a.example.com", {}, table)["mine"].written == "1/2.5/1/4"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[list]", "not TOML"),
        ("", r"has no \[\[list\]\]"),
        ("[[list]]", r"\[\[list\]\] 1: has no \[list.models\]"),
        (
            '[[list]]\nhost = "a"\n[list.models]',
            "no such key host; there are source, date, hosts, models",
        ),
        ("[[list]]\nhosts = 'a'\n[list.models]", "hosts: write a list of names"),
        ("[[list]]\n[list.models]\nm = {prompt = 1}", "m: has no price for output"),
        (
            "[[list]]\n[list.models]\nm = {prompt = -1, output = 2}",
            "m: prompt: -1 is not US dollars",
        ),
        (
            "[[list]]\n[list.models]\nm = {prompt = true, output = 2}",
            "prompt: True is not US dollars",
        ),
        (
            "[[list]]\n[list.models]\nm = {prompt = nan, output = 2}",
            "prompt: nan is not US dollars",
        ),
        ("[[list]]\n[list.models]\nm = {prompt = 1, output = 2, cache = 1}", "no such key cache"),
        ("[[list]]\n[list.models]\nm = 3", "m: write it as"),
        ("list = [1, 2]", r"has no \[\[list\]\]"),
        ("a = " + "[" * 100_000, "not TOML"),
        ("[[list]]\nhosts = ['a.example.com:8000']\n[list.models]", "write a host alone"),
        ("[[list]]\nhosts = ['https://a.example.com']\n[list.models]", "write a host alone"),
        (
            f"[[list]]\n[list.models]\nm = {{prompt = 1{'0' * 400}, output = 2}}",
            "0 is not US dollars",
        ),
        ("[[list]]\n[list.models]\nm = {prompt = 1e308, output = 2}", r"1e\+308 is not US dollars"),
        (
            "[[list]]\n[list.models]\nm = {prompt = 1, output = 2, context = 0}",
            "0 is not a number of tokens",
        ),
        ("extra = 1\n[[list]]\n[list.models]", "no such key extra"),
    ],
)
def test_a_table_that_says_something_else_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """A key that is mistyped would leave a price out."""
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_price_lists(path)


def test_a_run_keeps_the_prices_that_it_was_made_with(table: Path, tmp_path: Path) -> None:
    """By the file: 1 USD a million prompt tokens, 2.5 for output; later tables change nothing."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(4)])
    with answering(lambda _: answer(prompt_tokens=1000, tokens=100)) as server:
        run = replay(
            trace,
            base_url=server.url,
            out=tmp_path / "a.run",
            model="mine",
            prices=table,
            speed=100.0,
        )
    table.unlink()

    assert run.totals["cost"]["usd"] == pytest.approx(4 * 0.00125)
    assert run.header["target"]["prices"]["mine"][:4] == [1, 2.5, None, 4]
    assert price_sources(run) == {"mine.toml (my contract, 2026-11-01)": ["mine"]}


def test_prices_from_python_may_be_written_as_on_the_command_line(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.msgpack", [chat(0, stream=False)])
    with answering(lambda _: answer(prompt_tokens=1000, tokens=100)) as server:
        run = replay(trace, base_url=server.url, out=tmp_path / "a.run", price={CHAT: "1/2.5"})

    assert run.totals["cost"]["usd"] == pytest.approx(0.00125)
    assert priced(1.5, 0, (), price_sources(run)) == "$1.50 at --price"


def test_a_replay_says_what_its_report_says_it_cost(
    table: Path, tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """Three are counted; one names no usage, one is cut, one is refused, which is free."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, stream=False) for i in range(6)])
    counted = answer(prompt_tokens=1000, tokens=0)
    uncounted = Given([counted.pieces[0].replace(b"usage", b"usury")])
    cut = Given([uncounted.pieces[0][:20]])
    answers = iter([counted, uncounted, counted, cut, counted, Given([b"{}"], status=500)])
    with answering(lambda _: next(answers)) as server:
        played = tbench(
            "replay", trace, "--base-url", server.url, "--model", "mine", "--prices", table,
            "--concurrency", 1, "--warmup", "none", "-o", "a.run",
        )  # fmt: skip
    reported = tbench("report", "a.run")
    run = read_run(tmp_path / "a.run")
    figures = json.loads(tbench("report", "a.run", "--json").out)["cost"]

    assert "at least $0.00300 at mine.toml (my contract" in played.out, played
    assert "(left out: 2 requests without token counts)" in played.out
    assert "cost: $0.00300 at least (2 requests without token counts)" in reported.out
    assert figures["usd"] == pytest.approx(run.totals["cost"]["usd"]) == pytest.approx(0.003)
    assert figures["uncounted"] == run.totals["cost"]["uncounted"] == 2


def test_a_dry_run_says_where_its_prices_are_from(
    table: Path, tbench: Callable[..., Done], tmp_path: Path
) -> None:
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(3)])
    line = (
        "replay",
        "t.msgpack",
        "--base-url",
        "http://127.0.0.1:9",
        "--model",
        "mine",
        "--dry-run",
    )
    known = json.loads(tbench(*line, "--prices", table, "--json").out)
    unknown = json.loads(tbench(*line, "--json").out)

    assert known["prices"] == {"mine.toml (my contract, 2026-11-01)": ["mine"]}
    assert known["cost_usd"] == pytest.approx(3 * (11 + 8 * 2.5) / 1e6)
    assert (unknown["prices"], unknown["cost_usd"], unknown["unpriced"]) == ({}, None, ["mine"])
