"""A figure that several views show is the same in all of them, whatever went wrong with the traffic."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import openpyxl
import pytest

from tbench.analysis.arms import Arm, Replicates, load_arm
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.analysis.report.machine import report_json
from tbench.analysis.report.page import comparison_report, judgement_report, run_report
from tbench.analysis.report.text import run_text
from tbench.analysis.report.workbook import comparison_book, judgement_book, run_book
from tbench.capture.exchange import Outcome
from tbench.replay.closing import summary
from tbench.replay.pacing import parse_warmup
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tbench.replay.throughput import three
from tbench.replay.totals import numbers

N: Final = 300
FAILS: Final = {
    Outcome.HTTP_ERROR: 500,
    Outcome.TIMEOUT: 200,
    Outcome.CUT: 200,
    Outcome.CANCELLED: None,
}
PRICES: Final = {"m": [2.0, 8.0, 0.5, None]}


def traffic(seed: int) -> list[Sample]:
    """Streams, embeddings and rerankings, one each 50 ms; one in five ends badly, some in the warm-up."""
    random = np.random.default_rng(seed)
    samples = []
    for index in range(N):
        due = index / 20
        sent = due + float(random.exponential(0.002))
        first = sent + float(random.lognormal(-2, 0.5))
        end = first + float(random.lognormal(-1, 0.5))
        endpoint = str(random.choice(["chat", "chat", "chat", "embeddings", "rerank"]))
        words = endpoint == "chat"
        prompt = int(random.integers(20, 400))
        made = Sample(
            id=f"{index}", index=index, endpoint=endpoint, model="m", stream=words, due=due, sent=sent,
            first_token=first if words else None, first_answer=first if words else None,
            last_token=end if words else None, end=end, status=200,
            prompt_tokens=None if endpoint == "embeddings" else prompt,
            output_tokens=int(random.integers(1, 40)) if words else None,
            cached_tokens=prompt // 2 if words else None,
            token_times=(first, (first + end) / 2, end) if words else (),
        )  # fmt: skip
        if random.random() < 0.2:
            outcome = list(FAILS)[random.integers(len(FAILS))]
            nothing = dict.fromkeys(
                ("last_token", "prompt_tokens", "output_tokens", "cached_tokens")
            )
            made = replace(
                made, outcome=outcome, status=FAILS[outcome], error=f"it was {outcome}", token_times=(),
                end=sent + 3 if outcome is Outcome.TIMEOUT else end, **nothing,
            )  # fmt: skip
        samples.append(made)
    return samples


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Arm]:
    def made(seed: int, samples: list[Sample] | None = None, **totals: Any) -> Arm:
        header = {
            "wall_ns": seed * 10**9,
            "trace": {"capture_id": "c"},
            "pacing": {"mode": "speed", "value": 1.0, "open_loop": True, "meaning": "as recorded"},
            "target": {"base_url": "http://127.0.0.1:1", "prices": PRICES},
        }
        samples = traffic(seed) if samples is None else samples
        writer = RunWriter(tmp_path / f"{seed}.run", header, clock=lambda: 0.0)
        for each in samples:
            writer.add(each)
        fates = [each.fate.value for each in samples]
        counts = {name: fates.count(name) for name in ("completed", "failed", "cancelled")}
        rest = {"planned": len(samples), "lost_in_flight": 0, "never_sent": 0, "warmup_s": 1.0}
        return load_arm(writer.close({**counts, **rest, **totals}))

    return made


def sheets(book: Callable[[Any], None]) -> dict[str, list[dict[str, Any]]]:
    """A workbook's tables: of each sheet the rows, by the heads of their columns."""
    file = BytesIO()
    book(file)
    tables = {}
    for sheet in openpyxl.load_workbook(file):
        _, heads, *rows = [*sheet.iter_rows(values_only=True), ()][: sheet.max_row]
        tables[sheet.title] = [dict(zip(heads, row, strict=True)) for row in rows if any(row)]
    return tables


def quantiles(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, float | None, int]]:
    """Of a sheet of quantiles: run, metric, quantile, value, how many."""
    for row in rows:
        for name in ("p50", "p90", "p95"):
            if row.get("metric"):
                yield row["run"], row["metric"], name, row[name], row["n"]


OPTIONS: Final = {
    "the runs' own warm-up": CompareOptions(),
    "another warm-up": CompareOptions(warmup=parse_warmup("4")),
    "unpaired": CompareOptions(paired=False),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("seed", [1, 2])
def test_all_that_shows_a_pair_is_of_the_compared_requests(
    seed: int, options: CompareOptions, run: Callable[..., Arm]
) -> None:
    """One run had a longer warm-up and ended early: what only the other counts, no view of the pair has."""
    baseline = run(seed)
    candidate = run(seed + 10, traffic(seed + 10)[: N - 40], warmup_s=3.0)
    pair = compare(baseline, candidate, options)
    tables = sheets(lambda file: comparison_book(pair, file, command=None))
    rows = {(row.metric, row.quantile): row for row in pair.rows}

    seen = 0
    for side, metric, name, value, n in quantiles(tables["Quantiles"]):
        row = rows.get((metric, float(name[1:]) / 100))
        if row is None:
            continue
        seen += 1
        of_side = (getattr(row, name) for name in (side, f"{side}_at_least", f"n_{side}"))
        value_s, least_s, count = of_side
        assert n == count
        assert value == pytest.approx((least_s if value_s is None else value_s) * 1e3)
    assert seen == 4 * 3 * 2  # metrics, quantiles, sides
    for place, side in enumerate(("baseline", "candidate")):
        (errors,) = (row for row in tables["Errors"] if row["run"] == side)
        (rates,) = (row for row in tables["Throughput"] if row["run"] == side)
        assert errors["requests"] == pair.requests[place]
        assert errors["share failed"] == pytest.approx(getattr(pair.errors, side))
        for both in pair.rates:
            assert rates[both[place].row.title] == pytest.approx(both[place].value)
            if options.warmup is None:  # of half of what a run did there is no rate
                of_run = report_json((baseline, candidate)[place])[both[place].row.name]
                assert both[place].value == pytest.approx(of_run)
    words = comparison_report(pair).pictures["distribution-of-ttft"].text
    for side, n in (
        ("baseline", rows["ttft", 0.5].n_baseline),
        ("candidate", rows["ttft", 0.5].n_candidate),
    ):
        assert f"{side} n = {n:,}" in words


def test_all_that_shows_repeated_runs_is_of_the_shared_requests(run: Callable[..., Arm]) -> None:
    """Each run left out another warm-up; gates are of what no run left out, and so is all beside them."""
    runs = [run(seed, warmup_s=seed / 2) for seed in range(1, 7)]
    arms = [Replicates(name=name, runs=tuple(runs[at::2])) for at, name in enumerate("AB")]
    results = evaluate_gates(
        arms, parse_gates(None, ["e2e:p50:5%", "errors:1pp", "requests_per_s:5%"])
    )
    tables = sheets(lambda file: judgement_book(results, file, command=None))

    shared = [row for row in tables["Errors"] if row["run"]]
    assert {row["requests"] for row in shared} == {results.n}
    figures = {
        row.gate.metric: {"A": row.baseline_runs, "B": row.candidate_runs} for row in results.rows
    }
    for arm, of_arm in figures["errors"].items():
        assert [row["share failed"] for row in shared if row["run"][0] == arm] == pytest.approx(
            of_arm
        )
    for arm, of_arm in figures["requests_per_s"].items():
        rates = [row["requests/s"] for row in tables["Throughput"] if (row["run"] or "")[:1] == arm]
        assert rates == pytest.approx(of_arm)
    for arm, of_arm in figures["e2e"].items():
        medians = [
            value
            for which, metric, name, value, _ in quantiles(tables["Quantiles"])
            if (which[0], metric, name) == (arm, "e2e", "p50")
        ]
        assert medians == pytest.approx([value * 1e3 for value in of_arm])
    assert judgement_report(results)


@pytest.mark.parametrize("warmup_s", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_counts_and_latencies_of_a_run_are_the_same_in_every_view(
    seed: int, warmup_s: float, run: Callable[..., Arm]
) -> None:
    """Counted here, from the samples; a warm-up of 20 s leaves nothing to measure."""
    arm = run(seed, warmup_s=warmup_s)
    samples = [each for each in traffic(seed) if each.due >= warmup_s]
    ok = [each for each in samples if each.outcome is Outcome.OK]
    failed = [each for each in samples if each.outcome not in {Outcome.OK, Outcome.CANCELLED}]
    page = run_report(arm)
    body = "".join(str(part.body) for part in page.parts)
    tables = sheets(lambda file: run_book(arm, file, command=None))
    document = report_json(arm)
    lines = "\n".join(summary(arm.run, numbers(arm.run), verbose=True))
    text = run_text(arm, width=1000)

    if samples:
        fate = f"{len(ok):,} of {len(samples):,} requests succeeded"
        assert fate in str(page.head)
        assert fate in str(tables["Verdict"])
    (row,) = tables["Errors"][:1]
    assert (row["requests"], row["succeeded"], row["failed"]) == (
        len(samples),
        len(ok),
        len(failed),
    )
    # Every failure has its text, and none of another request.
    for outcome in FAILS:
        count = sum(each.outcome is outcome for each in samples)
        told = re.search(rf">(\d+)</th><td[^>]*>it was {outcome}<", body)
        assert (int(told[1]) if told else 0) == count
    for name in ("ttft", "e2e"):
        values = [
            (each.first_token if name == "ttft" else each.last_token or each.end) - each.due
            for each in ok
            if name == "e2e" or each.stream
        ]
        mean = float(np.mean(values)) if values else None
        assert document[f"{name}_s"]["mean"] == (mean and pytest.approx(mean))
        if values:
            assert document["summaries"][name]["mean"] == pytest.approx(mean)
            shown = re.escape(three(mean * 1e3))
            assert re.search(rf"^  {name.upper()} +{shown} ", lines, re.MULTILINE)
            assert re.search(rf"^{name} +{shown} ", text, re.MULTILINE)
    assert ("errors, with the warm-up: " in text) == bool(warmup_s)


@pytest.mark.parametrize(
    ("baseline", "candidate", "said"),
    [
        (0.5, 0.5, None),
        (0.5, 0.9, "50% of the baseline's prompt tokens came from the server's cache, 90% of the"),
        (None, 0.9, "the baseline names no tokens from a cache, and 90% of the candidate's prompt"),
        (0.9, None, "the candidate names no tokens from a cache, and 90% of the baseline's prompt"),
        (None, None, None),
        (None, 0.0, None),
    ],
)
def test_shares_of_caches_are_of_the_requests_that_hit_rates_are_of(
    baseline: float | None, candidate: float | None, said: str | None, run: Callable[..., Arm]
) -> None:
    """Prompts of rerankings come from no cache of prefixes; what nobody names is not 0%."""

    def caching(seed: int, share: float | None) -> Arm:
        samples = []
        for each in traffic(seed):
            prompt, cached = (None, None) if each.prompt_tokens is None else (100, None)
            if each.cached_tokens is not None and share is not None:
                cached = round(100 * share)
            samples.append(replace(each, prompt_tokens=prompt, cached_tokens=cached))
        return run(seed, samples)

    pair = compare(caching(1, baseline), caching(2, candidate))
    texts = [each.text for each in pair.warnings if each.code == "CACHED_TOKENS_DIFFER"]
    assert len(texts) == (said is not None)
    assert said is None or texts[0].startswith(said)
