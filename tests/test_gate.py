"""Gates as a user writes them: every form is read, and every other one is told the right form."""

import pytest

from tbench.analysis.gate import Gate, parse_gate, parse_gates, parse_margin
from tbench.analysis.run_metrics import parse_slo
from tbench.capture.errors import InputError


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("ttft:p95:5%", Gate(metric="ttft", quantile=0.95, margin=0.05)),
        ("e2e:p99.9:10%", Gate(metric="e2e", quantile=0.999, margin=0.1)),
        ("errors:0.5pp", Gate(metric="errors", quantile=None, margin=0.005)),
    ],
)
def test_a_gate_is_read_and_written(text: str, gate: Gate) -> None:
    """Metric, quantile and margin; errors in points."""
    found = parse_gate(text)

    assert (found.metric, found.quantile, found.margin) == pytest.approx(
        (gate.metric, gate.quantile, gate.margin)
    )
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft", "write it as"),
        ("speed:p50:5%", "no metric speed"),
        ("ttft:5%", "needs a quantile"),
        ("ttft:p95:5pp", "needs a quantile and per cent"),
        ("errors:5%", "margin in points"),
        ("ttft:p0:5%", "between p0 and p100"),
        ("ttft:p100:5%", "between p0 and p100"),
        ("ttft:p95:0%", "above 0"),
        ("ttft:p9.9.9:5%", "no number"),
        ("output_tokens:p50:5%", "neither more nor less"),
    ],
)
def test_a_bad_gate_is_one_line(text: str, said: str) -> None:
    """It says what is wrong, and the right form where there is one."""
    with pytest.raises(InputError, match=said):
        parse_gate(text)


def test_a_margin_is_five_gates_and_one_that_is_named_replaces_its_own() -> None:
    """TTFT and end to end, at the median and the p95, and half a point of failures."""
    gates = parse_gates("5%", ["ttft:p95:20%", "errors:1pp"])

    assert [gate.text for gate in parse_margin("5%")] == [
        "ttft:p50:5%",
        "ttft:p95:5%",
        "e2e:p50:5%",
        "e2e:p95:5%",
        "errors:0.5pp",
    ]
    assert [gate.text for gate in gates] == [
        "ttft:p50:5%",
        "e2e:p50:5%",
        "e2e:p95:5%",
        "ttft:p95:20%",
        "errors:1pp",
    ]
    with pytest.raises(InputError, match="--margin"):
        parse_margin("0.05")


@pytest.mark.parametrize(
    ("text", "scale", "limit"),
    [
        ("goodput_per_s:5%", "ratio", None),
        ("requests_per_s:5%", "ratio", None),
        ("output_tokens_per_s:5%", "ratio", None),
        ("output_tokens_per_s:p50:5%", "ratio", None),
        ("goodput:1pp", "points", None),
        ("goodput>=99%", "level", 0.99),
        ("errors<=0.5%", "level", 0.005),
        ("ttft:p95<=500ms", "level", 0.5),
        ("e2e:p99<=2.5s", "level", 2.5),
        ("requests_per_s>=20", "level", 20),
        ("output_tokens_per_s:p50>=30", "level", 30),
    ],
)
def test_every_form_is_read_and_written(text: str, scale: str, limit: float | None) -> None:
    """A change as a ratio or in points, or a limit for the candidate alone."""
    found = parse_gate(text)

    assert (found.text, found.scale, found.limit) == (text, scale, pytest.approx(limit))
    assert (found.margin > 0) == (limit is None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("errors:p50:1pp", "one number of a run"),
        ("goodput:1%", "margin in points"),
        ("requests_per_s:1pp", "margin in per cent"),
        ("output_tokens_per_s:p50:5pp", "margin in per cent"),
        ("goodput<=99%", "write >="),
        ("ttft:p95>=500ms", "write <="),
        ("ttft<=500ms", "needs a quantile"),
        ("ttft:p95<=500", "500s or 500ms"),
        ("ttft:p95<=5%", "5s or 5ms"),
        ("goodput>=99", "write goodput:1pp"),
        ("goodput>=100%", "below 100%"),
        ("requests_per_s>=0", "above 0"),
        ("errors:0pp", "above 0"),
    ],
)
def test_a_form_that_does_not_fit_is_told_the_right_one(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_gate(text)


def test_goodput_and_the_slo_need_each_other() -> None:
    """Neither means anything alone; a gate given twice is one."""
    slo = parse_slo("ttft<500ms")
    found = parse_gates(None, ["goodput:1pp", "errors:1pp", "goodput:1pp"], slo)

    assert [(gate.text, gate.slo) for gate in found] == [("goodput:1pp", slo), ("errors:1pp", ())]
    with pytest.raises(InputError, match="--slo 'ttft<500ms"):
        parse_gates(None, ["goodput:1pp"])
    with pytest.raises(InputError, match="--slo needs a gate"):
        parse_gates("5%", [], slo)


def test_a_limit_does_not_replace_a_usual_gate() -> None:
    """Two questions about one quantile."""
    assert len(parse_gates("5%", ["ttft:p95<=500ms"])) == 6
