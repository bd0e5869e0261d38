"""Repeated runs are compared on the requests that every run holds and none calls warm-up."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Replicates
from tbench.analysis.cautions import cautions
from tbench.analysis.gate_cautions import pooled
from tbench.analysis.metrics import METRICS, values
from tbench.analysis.pairing import shared
from tbench.capture.errors import InputError
from tbench.replay.pacing import parse_warmup


def arm(name: str, *runs: Any) -> Replicates:
    return Replicates(name=name, runs=runs)


def cut(found: dict[str, Any], keep: Any) -> dict[str, Any]:
    return {name: column[keep] for name, column in found.items()}


def test_alike_runs_share_everything(repeats: Any) -> None:
    found = shared(
        [
            arm("A", repeats.run(repeats.columns(50, 1), 0)),
            arm("B", repeats.run(repeats.columns(50, 2), 1)),
        ]
    )

    assert (found.n, found.dropped, found.everything, found.lacking) == (50, 0, 50, ())
    assert [run.at for group in found.groups for run in group.runs] == [0, 1]


def test_requests_are_found_by_name_and_round_wherever_they_lie(repeats: Any) -> None:
    """One run lacks the end, another is in another order: the same request is at the same place of all."""
    whole, short = repeats.columns(50, 1), cut(repeats.columns(50, 2), np.arange(30))
    turned = cut(repeats.columns(50, 3), np.arange(50)[::-1])
    runs = [repeats.run(found, at) for at, found in enumerate((whole, short, turned))]
    found = shared([arm("A", *runs[:2]), arm("B", runs[2])])

    named = [run.column("id").tolist() for group in found.groups for run in group.runs]
    assert named == [[f"r{i}" for i in range(30)]] * 3
    assert (found.n, found.everything) == (30, 50)
    assert [(run is runs[1], count) for run, count in found.lacking] == [(True, 20)]


def test_a_request_that_is_warm_up_anywhere_is_left_out_everywhere(repeats: Any) -> None:
    first, second = repeats.columns(50, 1), repeats.columns(50, 2)
    first["warmup"][:3], second["warmup"][:5] = True, True
    arms = [arm("A", repeats.run(first, 0)), arm("B", repeats.run(second, 1))]

    assert [len(group.runs[0].column("id")) for group in shared(arms).groups] == [45, 45]
    assert shared(arms).dropped == 5
    assert shared(arms, parse_warmup("none")).dropped == 0
    with pytest.raises(InputError, match="warm-up"):
        shared(arms, parse_warmup("3600"))


def test_nothing_in_common_is_refused(repeats: Any) -> None:
    halves = [cut(repeats.columns(50, 1), keep) for keep in (np.arange(20), np.arange(20, 50))]

    with pytest.raises(InputError, match="no request in common"):
        shared(
            [
                arm(name, repeats.run(half, at))
                for at, (name, half) in enumerate(zip("AB", halves, strict=True))
            ]
        )


def test_pooled_runs_measure_as_each_of_them(repeats: Any) -> None:
    """What an arm's runs add up to is what each of them holds."""
    one, other = (repeats.run(repeats.columns(40, seed), seed) for seed in (1, 2))
    found = shared([arm("A", one, other), arm("B", repeats.run(repeats.columns(40, 3), 3))])
    evidence = pooled(*found.groups)

    for metric in ("ttft", "output_tokens"):
        apart = np.concatenate([values(run, METRICS[metric]) for run in (one, other)])
        assert np.allclose(evidence.pair(metric)[0], apart, equal_nan=True)
    assert evidence.sizes == [80, 40]
    unwell = [str(word) for run in (one, other) for word in run.columns["outcome"] if word != "ok"]
    assert evidence.kinds()[0] == Counter(unwell)
    assert not evidence.match.paired
    assert cautions(evidence, ("OUTPUT_LENGTH_DIFFERS", "ERROR_MIX_DIFFERS")) == ()
