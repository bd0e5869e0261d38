"""Figures of seeded runs as an earlier version printed them: a faster way of reading must change none.

`python tests/test_golden.py` writes golden.json again; do so only where a method changed, and say so.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import load_arm
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.report.machine import comparison_json, dump, report_json
from tbench.capture.exchange import Outcome
from tbench.replay.pacing import parse_warmup
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample

GOLDEN = Path(__file__).with_name("golden.json")
KEPT = ("comparisons", "errors", "shift", "requests", "paired")
COUNTS = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "lag_s", "in_flight", "errors", "summaries")
UNWELL = (Outcome.TIMEOUT, Outcome.HTTP_ERROR, Outcome.CANCELLED, Outcome.STREAM_ERROR)
MEASURED = (
    *("ttft", "ttft_sent", "ttft_answer", "e2e", "tpot", "itl", "itl_p95", "output_tokens_per_s"),
    *("prompt_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "lag"),
)
"""The metrics that there were when the figures were written."""
QUESTIONS = {
    "plain": CompareOptions(),
    "everything": CompareOptions(metrics=MEASURED, quantiles=(0.5, 0.95)),
    "unpaired": CompareOptions(paired=False, metrics=("ttft", "e2e")),
    "warmup": CompareOptions(warmup=parse_warmup("5%"), metrics=("ttft",)),
}


def sample(index: int, random: np.random.Generator, slow: float) -> Sample:
    """One of a loop of two rounds; one in ten has no stream, one in twelve went wrong."""
    due = index * 0.5
    sent = due + random.exponential(0.001)
    first = sent + slow * random.lognormal(-1.5, 0.5)
    gaps = slow * random.lognormal(-4, 0.3, int(random.integers(3, 30)))
    times = tuple((first + np.concatenate([[0.0], np.cumsum(gaps)])).tolist())
    outcome = str(random.choice(UNWELL)) if random.random() < 1 / 12 else "ok"
    stream, ok = bool(random.random() < 0.9), outcome == "ok"
    return Sample(
        id=f"r{index % 1500}",
        index=index,
        cycle=index // 1500,
        endpoint="chat",
        model="m" if index % 3 else "n",
        stream=stream,
        due=due,
        sent=sent,
        first_token=times[0] if stream and ok else None,
        first_answer=times[1] if stream and ok else None,
        last_token=times[-1] if stream and ok else None,
        end=due + 60 if outcome == Outcome.TIMEOUT else times[-1] + 0.001,
        status=200 if ok else 503,
        outcome=Outcome(outcome),
        error=None if ok else f"text {index % 2}",
        prompt_tokens=int(random.integers(10, 900)) if ok else None,
        output_tokens=len(times) if ok else None,
        cached_tokens=int(random.integers(0, 10)) if ok and index % 2 else None,
        token_times=times if stream and ok else (),
    )


def run_file(path: Path, seed: int, slow: float) -> Path:
    """3,000 samples in the order in which they might have ended; of some nothing was kept."""
    random = np.random.default_rng(seed)
    whole = [sample(index, random, slow) for index in range(3000)]
    order = np.argsort(np.arange(3000) + random.exponential(20, 3000), kind="stable")
    kept = [whole[place] for place in order if random.random() > 0.002]
    header = {"trace": {"capture_id": "c"}, "pacing": {"mode": "rate", "value": 2.0}}
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for one in kept:
        writer.add(one)
    fates = [str(one.fate) for one in kept]
    counts = {fate: fates.count(fate) for fate in ("completed", "failed", "cancelled")}
    rest = {"planned": len(kept), "lost_in_flight": 0, "never_sent": 0}
    return writer.close({**counts, **rest, "warmup_s": 60.0})


def measured(folder: Path) -> dict[str, Any]:
    """All figures of two runs: each question's comparison, and each run's report."""
    a = load_arm(run_file(folder / "a.run", 1, 1.0))
    b = load_arm(run_file(folder / "b.run", 2, 1.1))
    asked = {name: comparison_json(compare(a, b, it)) for name, it in QUESTIONS.items()}
    found: dict[str, Any] = {name: {key: one[key] for key in KEPT} for name, one in asked.items()}
    for arm in (a, b):
        whole = report_json(arm, samples=True)
        found[arm.name] = {key: whole[key] for key in COUNTS}
        found[arm.name]["samples"] = {key: it[::500] for key, it in whole["samples"].items()}
    plain: dict[str, Any] = json.loads(dump(found))
    return plain


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where a stored value is not found again; what is new is no difference."""
    match old:
        case dict():
            for key, value in old.items():
                yield from differences(value, new.get(key), f"{where}.{key}")
        case list() if isinstance(new, list) and len(old) == len(new):
            for place, (first, second) in enumerate(zip(old, new, strict=True)):
                yield from differences(first, second, f"{where}[{place}]")
        case float() if isinstance(new, float | int):
            if new != pytest.approx(old, rel=1e-9, abs=1e-12):
                yield f"{where}: {old} became {new}"
        case _:
            if old != new:
                yield f"{where}: {old!r} became {new!r}"


def test_every_figure_is_as_it_was(tmp_path: Path) -> None:
    """Comparisons, reports and single samples of two runs whose samples lie out of order."""
    assert list(differences(json.loads(GOLDEN.read_text()), measured(tmp_path))) == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(measured(Path(folder)), separators=(",", ":")) + "\n")
