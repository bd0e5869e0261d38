"""The replay command's words: flags, conflicts, the dry run, and what they exit with."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench import flags
from tbench.__main__ import run
from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay import runner
from tbench.replay.closing import priced
from tests.recorded import chat_request

BODY = json.dumps(
    {"model": "openai/gpt-oss-20b", "messages": [], "max_tokens": 10, "stream": True}
).encode()
SPOKEN = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello."}]}).encode()
LIST = "list prices (models.dev for Together AI, 2026-07-02)"
USAGE = b'{"usage":{"prompt_tokens":100,"completion_tokens":10}}'


def exchange(seq: int, at: float, **fields: Any) -> Exchange:
    request = chat_request(seq, round(at * 1e9), BODY, **fields)
    response = Response(
        head_ns=0,
        end_ns=round((at + 2.0) * 1e9),
        status=200,
        headers=(("content-type", "application/json"),),
        body=USAGE,
        body_bytes=len(USAGE),
    )
    return Exchange(request=request, response=response)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Ten requests over 9 s and one picture, captured from an address where nobody listens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(tmp_path / "t.msgpack", header) as writer:
        for seq in range(10):
            writer.exchange(exchange(seq, float(seq)))
        writer.exchange(exchange(10, 20.0, path="/v1/images/generations"))
    return "t.msgpack"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--speed", "2", "--rate", "3"], "--speed and --rate are two pacings"),
        (["--poisson", "2", "--concurrency", "3"], "--poisson and --concurrency are two pacings"),
        (["--concurrency", "2", "--concurrency-scale", "3"], "--concurrency-scale are two pacings"),
        (["--speed", "0"], "--speed 0: must be more than 0"),
        (["--rate", "-1"], "--rate -1"),
        (["--constant", "nan"], "--constant nan"),
        (["--concurrency", "0"], "--concurrency 0"),
        (["--concurrency", "1.5"], "--concurrency"),
        (["--loop", "0"], "--loop 0"),
        (["--requests", "0"], "--requests 0"),
        (["--duration", "inf"], "--duration inf"),
        (["--timeout", "0"], "--timeout 0"),
        (["--max-in-flight", "0"], "--max-in-flight 0"),
        (["--concurrency", "2", "--max-in-flight", "3"], "both limit what is in flight"),
        (["--until", "trace"], "--until goes with --concurrency-scale"),
        (
            ["--poisson", "5", "--max-idle", "1", "--causal", "off"],
            "--poisson uses no recorded times",
        ),
        (["--sessions", "5", "--max-idle", "-1"], "--max-idle -1"),
        (["--until", "dawn"], "--until"),
        (["--concurrency-scale", "2", "--loop", "2"], "--until trace"),
        (["--warmup", "soon"], "--warmup 'soon'"),
        (["--warmup", "100%"], "--warmup 100%"),
        (["--set", "max_tokens"], "--set 'max_tokens'"),
        (["--set", "stop=x"], "is no JSON"),
        (
            [
                "--base-url",
                "http://127.0.0.1:9",
                "--match-length",
                "exact",
                "--set",
                "ignore_eos=false",
            ],
            "--match-length exact and --set ignore_eos both set the length",
        ),
        (
            ["--base-url", "http://127.0.0.1:9", "--match-length", "cap", "--set", "max_tokens=5"],
            "--match-length cap and --set max_tokens both set the length",
        ),
        (
            ["--base-url", "http://127.0.0.1:9", "--model", "a", "--set", 'model="b"'],
            "--set model and --model or --map-model both name the model",
        ),
        (["--map-model", "a"], "OLD=NEW"),
        (["--header", "nocolon"], "Name: value"),
        (["--base-url", "localhost:8000"], "--base-url 'localhost:8000'"),
        (
            ["--base-url", "http://h/v1/chat/completions"],
            "is a whole endpoint; give the API's address, http://h/v1\n",
        ),
        (
            ["--base-url", "http://h/api/v1/embeddings/"],
            "give the API's address, http://h/api/v1\n",
        ),
        (["--base-url", "https://h.example"], "TOGETHER_API_KEY is not set"),
        (["--api-key-env", "NOBODY_SET_THIS"], "NOBODY_SET_THIS is not set"),
        (
            ["--max-cost", "1", "--model", "unheard-of"],
            "unheard-of; give it by --price or --prices",
        ),
        (["--ca", "absent.pem"], "--ca absent.pem"),
        (["--nonsense"], "--help"),
    ],
)
def test_bad_orders_are_one_line_and_exit_2(
    trace: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is sent, and no run file begun, for an order that makes no sense."""
    assert run(["replay", trace, *flags]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert "replaying" not in shown.err
    assert not list(Path().glob("*.run*"))


def test_bad_traces_are_one_line_and_exit_2(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Absent, empty, foreign, or holding nothing that may be sent."""
    Path("empty.msgpack").touch()
    Path("foreign.msgpack").write_text("hello")
    with TraceWriter(
        Path("none.msgpack"), TraceHeader(wall_ns=0, mono_ns=0, upstream="http://127.0.0.1:1")
    ) as w:
        w.exchange(exchange(0, 0.0, path="/v1/images/generations"))

    for name in ("absent.msgpack", "empty.msgpack", "foreign.msgpack", "none.msgpack"):
        for words in (["replay", name], ["replay", name, "--dry-run"]):
            assert run(words) == 2
            assert name in capsys.readouterr().err


def test_a_price_leaves_out_what_it_cannot_know(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of ten requests have no token counts: the price of the seven, and how many are not in it."""
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(tmp_path / "some.msgpack", header) as writer:
        for seq in range(10):
            one = exchange(seq, float(seq))
            assert one.response is not None
            silent = replace(one, response=replace(one.response, body=b"{}", body_bytes=2))
            writer.exchange(silent if seq < 3 else one)

    assert run(["replay", "some.msgpack", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost_usd"] == pytest.approx(7 * (100 * 0.05 + 10 * 0.20) / 1e6)
    assert found["uncounted"] == 3

    assert run(["replay", "some.msgpack", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        f"cost        at least about $0.0000490 at {LIST} (left out: 3 requests without token counts)"
        in said
    )
    assert "at least 700 prompt, 70 output expected, 3 requests without token counts" in said


def test_tokens_that_nobody_counted_are_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a trace made of an access log: none is named, which is not 0."""
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(tmp_path / "some.msgpack", header) as writer:
        writer.exchange(replace(exchange(0, 0.0), response=None))

    assert run(["replay", str(tmp_path / "some.msgpack"), "--dry-run"]) == 0
    assert "tokens      unknown: the trace names none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("usd", "uncounted", "sources", "said"),
    [
        (
            0.19,
            1,
            {LIST: ["a"]},
            f"at least $0.190 at {LIST} (left out: 1 request without token counts)",
        ),
        (12.345, 0, {LIST: ["a"]}, f"$12.35 at {LIST}"),
        (
            12.345,
            0,
            {LIST: ["a/b", "c"], "--price": ["d"]},
            f"$12.35 at {LIST} for a/b, c, --price for d",
        ),
        (0.00001, 0, {"--price": ["a"]}, "$0.0000100 at --price"),
        (0.0, 2, {"--price": ["a"]}, "unknown (2 requests without token counts)"),
    ],
)
def test_a_cost_is_no_row_of_zeros(
    usd: float, uncounted: int, sources: dict[str, list[str]], said: str
) -> None:
    assert priced(usd, uncounted, (), sources) == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_first_request_says_that_nothing_was_sent(
    trace: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """The signal comes as the trace is looked through."""
    monkeypatch.setattr(runner, "first_look", lambda _: signal.raise_signal(number))

    assert run(["replay", trace, "-o", "a.run"]) == 130
    assert not Path("a.run").exists()
    assert capsys.readouterr().err.splitlines() == [
        "tbench: interrupted before the first request: nothing was sent, no run is written"
    ]


@pytest.mark.parametrize("verb", ["replay", "ab", "benchmark"])
def test_an_interrupt_of_any_verb_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(flags, "settle", lambda *_, **__: signal.raise_signal(signal.SIGINT))

    assert run([verb]) == 130
    assert capsys.readouterr().err == "tbench: interrupted\n"


def test_a_run_is_never_overwritten(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The name must be free before anything is sent."""
    Path("a.run").write_text("precious")

    assert run(["replay", trace, "-o", "a.run"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert Path("a.run").read_text() == "precious"


def test_a_trace_without_upstream_needs_a_target(
    trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not say where its requests went."""
    with TraceWriter(Path("u.msgpack"), TraceHeader(wall_ns=0, mono_ns=0, upstream=None)) as writer:
        writer.exchange(exchange(0, 0.0, host=""))

    assert run(["replay", "u.msgpack"]) == 2
    assert "give --base-url" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "requests", "duration", "mean", "estimated"),
    [
        ([], 10, 9.0, 1.0, False),
        (["--speed", "3"], 10, 3.0, 3.0, False),
        (["--rate", "2"], 10, 4.5, 2.0, False),
        (["--constant", "10"], 10, 0.9, 10.0, False),
        (["--loop", "2"], 20, 19.0, 1.0, False),
        (["--requests", "4"], 4, 3.0, 1.0, False),
        (["--loop", "3000000"], 30_000_000, 29_999_999.0, 1.0, True),
        (["--loop", "3000000", "--constant", "8"], 30_000_000, 29_999_999 / 8, 8.0, True),
        (["--loop", "3000000", "--duration", "1e6"], 1_000_000, 999_999.0, 1.0, True),
        (["--duration", "5"], 5, 4.0, 1.0, False),
        (["--concurrency", "4"], 10, 6.0, 10 / 6, True),  # of 2 s each, in three waves
        (["--sessions", "4"], 10, 6.0, 10 / 6, True),
        (
            ["--sessions", "100"],
            10,
            2.0,
            5.0,
            True,
        ),  # a conversation takes 2 s, whoever else speaks
        (["--concurrency-scale", "2"], 20, 11.0, 20 / 11, True),
        (["--concurrency-scale", "2", "--requests", "5"], 5, 4.0, 5 / 4, True),
        (["--concurrency-scale", "2", "--until", "trace"], 10, 6.0, 10 / 6, True),
    ],
)
def test_the_dry_run_says_what_would_be_sent(
    trace: str,
    flags: list[str],
    requests: int,
    duration: float,
    mean: float,
    estimated: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Requests, seconds and rate of each pacing; no key is needed, and nothing is sent or written."""
    assert run(["replay", trace, "--dry-run", "--json", *flags]) == 0
    found = json.loads(capsys.readouterr().out)

    assert (found["requests"], found["estimated"]) == (requests, estimated)
    assert found["duration_s"] == pytest.approx(duration)
    assert found["mean_rate"] == pytest.approx(mean)
    assert found["skipped"] == ({} if "--requests" in flags else {"endpoint": 1})
    assert found["prompt_tokens"] == 100 * requests
    assert found["cost_usd"] == pytest.approx(requests * (100 * 0.05 + 10 * 0.20) / 1e6)
    assert not list(Path().glob("*.run*"))


@pytest.mark.parametrize(
    ("flags", "requests"),
    [
        (["--duration", "4"], [1, 2, 3, 4]),
        (["--concurrency", "2", "--requests", "3"], [1, 2, 3]),
        (["--concurrency", "2", "--duration", "5"], [1, 2, 3, 4, 5, 6]),
        (["--loop", "2", "--requests", "12"], [*range(1, 11), 1, 2]),
        (["--loop", "3"], [*range(1, 11)] * 3),
    ],
)
def test_the_dry_run_counts_the_tokens_of_those_that_would_be_sent(
    tmp_path: Path, flags: list[str], requests: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not their share of a round: conversations grow, and so the first of them are the shortest."""
    path = tmp_path / "growing.msgpack"
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(path, header) as writer:
        for seq in range(10):
            recorded = exchange(seq, float(seq))
            assert recorded.response
            usage = b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}' % (1_000 * (seq + 1))
            answer = replace(recorded.response, body=usage, body_bytes=len(usage))
            writer.exchange(replace(recorded, response=answer))

    assert run(["replay", str(path), "--dry-run", "--json", *flags]) == 0
    seen = json.loads(capsys.readouterr().out)

    assert seen["requests"] == len(requests)
    assert seen["prompt_tokens"] == 1_000 * sum(requests)
    assert seen["output_tokens"] == len(requests)
    assert seen["cost_usd"] == pytest.approx(
        (sum(requests) * 1_000 * 0.05 + len(requests) * 0.20) / 1e6
    )


@pytest.mark.parametrize(
    ("flags", "about"),
    [
        (["--loop", "3000000"], False),
        (["--concurrency", "4"], False),
        (["--sessions", "4", "--requests", "3"], False),
        (["--concurrency-scale", "2", "--until", "trace"], False),
        (["--duration", "5"], False),
        (["--loop", "3000000", "--duration", "1e6"], True),
        (["--concurrency", "4", "--duration", "5"], True),
        (["--concurrency-scale", "2"], True),
    ],
)
def test_the_dry_run_says_about_where_the_number_is_an_estimate(
    trace: str, flags: list[str], *, about: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", trace, "--dry-run", *flags]) == 0

    assert ("\nrequests    about " in capsys.readouterr().out) == about


def test_the_dry_run_says_how_bursty_the_load_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By numpy: time that goes by faster has the bursts of longer windows, copies in step K times as many."""
    rng = np.random.default_rng(1)
    gaps = np.where(rng.random(800) < 0.2, rng.exponential(1.0, 800), rng.exponential(0.02, 800))
    arrivals = np.cumsum(gaps) - gaps[0]
    path = tmp_path / "bursts.msgpack"
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(path, header) as writer:
        for seq, at in enumerate(arrivals):
            each = exchange(seq, float(at))
            writer.exchange(replace(each, request=replace(each.request, body=SPOKEN)))

    def idc(window_s: float, copies: int = 1) -> float:
        edges = window_s * np.arange(int(arrivals[-1] / window_s) + 1)
        counts = copies * np.histogram(arrivals[arrivals < edges[-1]], edges)[0]
        return float(counts.var() / counts.mean())

    def seen(*flags: str) -> dict[str, tuple[float | None, float | None]]:
        assert run(["replay", str(path), "--dry-run", "--json", *flags]) == 0
        rows = json.loads(capsys.readouterr().out)["burstiness"]
        return {row["name"]: (row["recorded"], row["intended"]) for row in rows}

    plain, fast = seen(), seen("--speed", "4")
    copies, poisson = seen("--clones", "3", "--clone-shift", "0"), seen("--poisson", "50")
    cv = float(gaps[1:].std() / gaps[1:].mean())

    for recorded, intended in plain.values():
        assert intended == pytest.approx(recorded, rel=1e-6)
    assert plain["CV of gaps"][0] == pytest.approx(cv, rel=1e-6)
    assert plain["IDC in 1 s"][0] == pytest.approx(idc(1), rel=1e-6)
    assert fast["CV of gaps"] == pytest.approx((cv, cv), rel=1e-6)
    assert fast["IDC in 1 s"] == pytest.approx((idc(1), idc(4)), rel=1e-6)
    assert copies["IDC in 1 s"] == pytest.approx((idc(1), idc(1, copies=3)), rel=1e-6)
    assert poisson["IDC in 0.1 s"] == pytest.approx((idc(0.1), 1), rel=0.3)
    assert seen("--concurrency", "4") == {}

    assert run(["replay", str(path), "--dry-run", "--speed", "4"]) == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("burstiness")
    )
    assert f"IDC in 1 s {idc(1):.2f} -> {idc(4):.2f}" in line


def test_the_dry_run_never_guesses_a_price(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown model has no price, and the text says so."""
    assert run(["replay", trace, "--dry-run", "--model", "unheard-of"]) == 0
    assert "models without a known price: unheard-of" in capsys.readouterr().out


@pytest.mark.parametrize(("budget", "ends"), [("0.0001", False), ("0.00007", True)])
def test_the_dry_run_says_whether_max_cost_ends_it(
    trace: str, budget: str, *, ends: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten requests of $0.000007, of which one might cost some more."""
    assert run(["replay", trace, "--dry-run", "--max-cost", budget]) == 0
    assert ("\nlimit       --max-cost 7e-05 may end it before" in capsys.readouterr().out) == ends


def test_an_unreachable_target_is_exit_5(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is written, its numbers are printed, and one line names the address."""
    assert run(["replay", trace, "--constant", "100", "--json", "-o", "a.run"]) == 5
    shown = capsys.readouterr()
    found = json.loads(shown.out)

    assert (found["planned"], found["failed"], found["errors"]) == (10, 10, {"connect_error": 10})
    assert found["ttft_s"]["p50"] is None
    assert "http://127.0.0.1:1: cannot connect" in shown.err
    assert Path("a.run").exists()


def test_the_budget_stops_the_replay(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in flight counts with all it may cost: seven micro-dollars each, three fit into 22."""
    assert (
        run(["replay", trace, "--speed", "1000", "--max-cost", "0.000022", "--json", "-o", "a.run"])
        == 5
    )
    found = json.loads(capsys.readouterr().out)

    assert found["planned"] == 10
    assert found["never_sent"] <= 7
