"""Every figure of `report` and `compare` is the same in memory and beyond it, or said not to be.

The limit is lowered, so that both ways can be gone with the same small run, of each kind that there is.
"""

import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from tbench.analysis import beyond
from tbench.analysis.compare import CompareOptions, compare_files
from tbench.analysis.report.machine import Json, comparison_json, dump, report_json
from tbench.analysis.run_metrics import parse_slo
from tbench.capture.errors import InputError
from tbench.replay import runfile
from tests.run_kinds import KINDS, make_run

SLO: Final = parse_slo("ttft<500ms,e2e<3s")
CLOSE: Final = 0.01
"""Figures from histograms, whose buckets are 0.2 % wide, are no further off."""
NOT_TOLD: Final = {
    r"report\.fidelity": "fidelity",
    r"report\.summaries\.itl_p95": "itl_p95",
    r"report\.cost\.cost_per_session": "cost per session",
    r"report\.cost\..*(ci|refusal)": "intervals of costs",
    r"report\.in_flight\.max": "the most in flight",
    r"compare\.costs\.cost_per_session": "cost per session",
    r"compare\.costs\..*(ci|refusal)": "intervals of costs",
    r"compare\.equal_lengths": "end to end at equal lengths",
    r"compare\.overall\..*(geometric_mean|thirds|doubts|confidence)": "the ratio of the typical request",
    r"compare\.overall\..*(tau|effective_n|n)$": "compared as two samples",
    r"compare\.comparisons.*thirds": "thirds of a drift",
    r"compare\.(paired|warnings\.WARMUP)": "compared as two samples",
}
"""Figures that differ, and the words of the output that say so."""
PAIRS: Final = {"sessions", "short sessions", "sessions in places", "fewer sessions than places"}
"""Kinds of which memory takes requests in pairs: only then sessions are those of both arms."""
SURE: Final = (0.20, 0.35)
"""Where the autocorrelation lies near these, the number of blocks may fall either way."""


def flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each figure of a document with its place in it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flat(item, f"{path}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from flat(item, f"{path}[{number}]")
    else:
        yield path, value


def alike(first: Any, second: Any, close: float = CLOSE) -> bool:
    """Whether two figures, or texts with figures in them, are the same within that."""
    numbers = (int, float)
    if isinstance(first, numbers) and isinstance(second, numbers):
        return math.isclose(first, second, rel_tol=close, abs_tol=1.1e-6)
    if not isinstance(first, str) or not isinstance(second, str):
        return bool(first == second)
    pattern = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?"
    figures = [
        [float(each.replace(",", "")) for each in re.findall(pattern, text)]
        for text in (first, second)
    ]
    # A last digit may be rounded either way.
    return re.sub(pattern, "#", first) == re.sub(pattern, "#", second) and all(
        math.isclose(*pair, rel_tol=2 * close, abs_tol=0.11) for pair in zip(*figures, strict=True)
    )


def unequal(held: Json, counted: Json, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The figures of two documents that are not alike; none stands in one of them only."""
    first, second = dict(flat(held, path)), dict(flat(counted, path))
    for name in {**first, **second}:
        pair = first.get(name), second.get(name)
        # An empty map or list, and a null in its place, hold no figure.
        if not alike(*pair):
            yield name, *pair


def told(document: Json) -> str:
    """What a document says is left out."""
    if "beyond_memory" in document:
        return str(document["beyond_memory"])
    return next((text for text in document["warnings"] if text.startswith("BEYOND_MEMORY")), "")


def check_rows(held: Json, counted: Json) -> None:
    """The intervals of two comparisons; what chance may let fall either way is taken out."""
    rows = list(zip(held["comparisons"], counted["comparisons"], strict=True))
    held["comparisons"], counted["comparisons"] = [], []
    for exact, row in rows:
        place = row["metric"], row["quantile"]
        rhos = [each.pop("rho") for each in (exact, row)]
        if row["blocks"] != exact["blocks"]:
            assert any(abs(rho - limit) < 0.06 for rho in rhos for limit in SURE), place
            for document in (held, counted):
                points = document["shift"].get(row["metric"], [])
                points[:] = [point for point in points if point["p"] != row["quantile"]]
            continue
        check_ends(exact, row)
        p_values = [each.pop("p_value") for each in (exact, row)]
        assert alike_chances(*p_values), place
        # Of all p-values together, by one function.
        assert (exact.pop("q_value") is None) == (row.pop("q_value") is None), place
        if p_values[0] is not None and 0.02 < p_values[0] < 0.1:
            exact["finding"] = row["finding"]
        for document, each in ((held, exact), (counted, row)):
            each["method"] = each["method"].replace("unpaired", "paired")
            # The step of a clock is known to a bucket.
            steps = (re.sub(r"steps of about [\d.]+%", "steps", text) for text in each["warnings"])
            each["warnings"] = sorted(steps)
            document["comparisons"].append(each)
    for name, points in held["shift"].items():
        for exact, point in zip(points, counted["shift"][name], strict=True):
            for each in (exact, point):
                del each["drift"]  # by a hair, as the number of blocks
                each["ci"] = each.pop("low"), each.pop("high")
            check_ends(exact, point)
            for each in (exact, point):
                each["ci"] = each.pop("band_low"), each.pop("band_high")
            check_ends(exact, point, 2 * CLOSE)


def alike_chances(first: float | None, second: float | None) -> bool:
    """Whether two p-values are: buckets blur what some values of 20,000 do to them."""
    return first == second or (
        first is not None and second is not None and abs(first - second) < 0.15
    )


def check_ends(exact: Json, row: Json, close: float = CLOSE) -> None:
    """Both ends of an interval, within 1 % or a tenth of its width: where a set has holes, any may end it."""
    truths, ends = exact.pop("ci"), row.pop("ci")
    width = math.log(truths[1] / truths[0]) if None not in truths else 0.0
    for truth, end in zip(truths, ends, strict=True):
        assert alike(truth, end, max(close, width / 10)), (truths, ends)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfile, "PART", 3_000)


Runs = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of a kind by its seed; each is made once."""
    folder = tmp_path_factory.mktemp("runs")
    return cache(lambda kind, seed: make_run(folder / f"{kind} {seed}.run", kind, seed))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_the_same(kind: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    path = runs(kind, 1)

    def look() -> Json:
        document: Json = orjson.loads(dump(report_json(beyond.load(path, slo=SLO), slo=SLO)))
        return document

    held = look()
    monkeypatch.setattr(beyond, "LIMIT", 100)
    counted = look()
    words = told(counted)
    del held["beyond_memory"], counted["beyond_memory"]

    assert not [
        (name, *pair)
        for name, *pair in unequal(held, counted, "report")
        if not any(re.match(each, name) and text in words for each, text in NOT_TOLD.items())
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_is_the_same(kind: str, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = runs(kind, 1), runs(kind, 2)
    options = CompareOptions(paired=kind in PAIRS, slo=SLO, metrics=("ttft", "e2e", "tpot"))

    def look() -> Json:
        document: Json = orjson.loads(dump(comparison_json(compare_files(*paths, options))))
        return document

    if kind == "nothing but warm-up":
        for limit in (10_000_000, 100):
            monkeypatch.setattr(beyond, "LIMIT", limit)
            with pytest.raises(InputError, match="nothing is left to compare after the warm-up"):
                look()
        return
    held = look()
    monkeypatch.setattr(beyond, "LIMIT", 100)
    counted = look()
    words = told(counted)
    counted["warnings"] = [text for text in counted["warnings"] if text not in words]
    check_rows(held, counted)
    for document in (held, counted):
        texts = (text for text in document["warnings"] if not text.startswith("STEPS"))
        document["warnings"] = {text.partition(":")[0]: text for text in texts}

    assert not [
        (name, *pair)
        for name, *pair in unequal(held, counted, "compare")
        if not any(re.match(each, name) and text in words for each, text in NOT_TOLD.items())
    ]


def test_a_backlog_is_named_beyond_memory(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in memory: where more arrives than is served a queue decides, and nothing else is called so."""
    monkeypatch.setattr(beyond, "LIMIT", 100)

    def codes(kind: str) -> set[str]:
        compared = compare_files(runs(kind, 1), runs(kind, 2))
        return {caution.code for caution in compared.warnings}

    assert "LOAD_DOMINATED" in codes("overloaded")
    assert "LOAD_DOMINATED" not in codes("open loop")
    assert "LOAD_DOMINATED" not in codes("longer and longer prompts")
