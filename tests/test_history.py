"""A baseline file: what it keeps, what it never does, and every way in which it may be broken."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.analysis.arms import Replicates
from tbench.analysis.evaluate_history import host_of, session_of
from tbench.analysis.gate import parse_gates
from tbench.analysis.history import History, Session, appended, read_history, write_history, written
from tbench.analysis.run_metrics import Figure, parse_slo
from tbench.capture.errors import InputError

SLO = parse_slo("ttft<500ms,e2e<2s")
GATES = parse_gates("10%", ["errors:1pp", "goodput:1pp", "requests_per_s:5%"], SLO)


def session(at: int = 0, **changes: Any) -> Session:
    given_: dict[str, Any] = {
        "recorded": f"2026-11-{at + 1:02}T02:00:00.000+00:00",
        "trace": "trace-1",
        "name": "nightly",
        "model": "m",
        "target": "api.example:443",
        "pacing": "as recorded",
        "versions": {"tbench": "0.1.0"},
        "requests": 500,
        "figures": {
            "ttft:p50": (Figure(value=0.25, n=500), Figure(value=0.125, n=500)),
            "errors": (Figure(value=0.004, n=500, events=2), Figure(value=0.0, n=500)),
        },
    }
    return Session(**(given_ | changes))


def test_a_session_keeps_each_gates_figure_of_every_run(repeats: Any) -> None:
    """By what is looked at, the margins left out; usual gates that the runs cannot carry are left out."""
    _, arm = repeats.arms(repeats=3, target="https://me:secret@api.example:8443/v1?key=k")
    kept = session_of(arm, parse_gates("10%", ["errors:1pp", "goodput:1pp"], SLO))
    few = session_of(cut(repeats, arm, 300), GATES)

    assert list(kept.figures) == [
        "ttft:p50",
        "ttft:p95",
        "e2e:p50",
        "e2e:p95",
        "errors",
        "goodput ttft<500ms,e2e<2s",
    ]
    assert [one.n for one in kept.figures["errors"]] == [500, 500, 500]
    assert kept.target == "api.example:8443"
    assert (kept.trace, kept.requests) == ("trace-1", 500)
    assert list(few.figures)[:3] == ["ttft:p50", "e2e:p50", "errors"]


def cut(repeats: Any, arm: Replicates, n: int) -> Replicates:
    runs = [{name: column[:n] for name, column in run.columns.items()} for run in arm.runs]
    return replace(arm, runs=tuple(repeats.run(run, at) for at, run in enumerate(runs)))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"lost_workers": ["worker 1 was killed"], "lost_in_flight": 1, "planned": 501},
            "INVALID_RUN",
        ),
        ({"ended_by": "interrupt", "never_sent": 3, "planned": 503}, "PARTIAL_RUN"),
        ({"source": None}, "one trace that has an id"),
    ],
)
def test_no_baseline_is_made_of_runs_that_do_not_count(
    repeats: Any, told: dict[str, Any], said: str
) -> None:
    _, arm = repeats.arms(repeats=3, **told)

    with pytest.raises(InputError, match=said):
        session_of(arm, GATES)


def test_a_gate_that_was_asked_for_must_have_figures(repeats: Any) -> None:
    _, arm = repeats.arms(repeats=3)

    with pytest.raises(InputError, match="ttft:p99: no baseline"):
        session_of(arm, parse_gates(None, ["ttft:p99:5%"]))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """To seven digits; each figure on a line of its own; one session more adds lines at the end."""
    history = History(
        path=tmp_path / "b.json", sessions=(session(0), session(1, runs=("0f", "a0")))
    )
    write_history(history)
    lines = written(history.sessions[:1]).split("\n")
    more = written(history.sessions).split("\n")

    assert read_history(history.path) == history
    assert [line.rstrip(",") for line in more[: len(lines) - 3]] == [
        line.rstrip(",") for line in lines[:-3]
    ]
    assert '    "ttft:p50": {"values": [0.25, 0.125], "n": [500, 500]},' in lines
    assert not list(tmp_path.glob("*.new"))


@given(
    value=st.floats(0, 1, allow_subnormal=False),
    n=st.integers(1, 10**7),
    words=st.text(max_size=30),
)
def test_any_session_is_valid_json(value: float, n: int, words: str) -> None:
    one = session(name=words, model=words, figures={words: (Figure(value=value, n=n),)})
    (found,) = json.loads(written([one]))["sessions"]

    assert (found["name"], found["model"]) == (words, words)
    assert found["figures"][words]["values"][0] == pytest.approx(value, rel=1e-6)


def test_nothing_private_is_kept(repeats: Any, tmp_path: Path) -> None:
    """No path of a run, no command line, no address with its user and token."""
    _, arm = repeats.arms(repeats=3, target="https://me:secret@api.example/v1?key=sk-1")
    for run in arm.runs:
        run.run.header.update(argv=["--header", "x: y"], versions={"tbench": "0.1.0"})
    text = written([session_of(arm, GATES)])

    assert not any(word in text for word in ("secret", "sk-1", "me:", ".run", "argv", "--header"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.together.xyz/v1", "api.together.xyz"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://user:pass@h:1/", "h:1"),
        ("http://h:notaport/", None),
        (None, None),
    ],
)
def test_a_target_is_host_and_port(url: str | None, host: str | None) -> None:
    assert host_of(url) == host


def test_another_trace_and_the_same_runs_are_refused() -> None:
    history = appended(History(path=Path("b.json"), sessions=()), session(0))

    later = appended(history, session(1))
    assert later.sessions == (session(0), session(1))
    # Whichever is saved first: "from" is the older one.
    first = appended(History(path=Path("b.json"), sessions=()), session(1))
    assert appended(first, session(0)) == later
    with pytest.raises(InputError, match="keep a file for each trace"):
        appended(history, session(1, trace="other"))
    with pytest.raises(InputError, match="holds these runs already"):
        appended(history, session(0))
    marked = appended(history, session(1, runs=("a", "b", "c")))
    with pytest.raises(InputError, match=r"holds these runs already \(2026-11-02"):
        appended(marked, session(2, runs=("c", "d")))  # without its first run it begins later
    assert len(appended(marked, session(1, runs=("d",))).sessions) == 3, (
        "a duet's arms begin at once"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "<<<<<<< HEAD\n" + text, "not a baseline file"),
        (lambda text: text[:-20], "not a baseline file"),
        (lambda _: "[]", "not a baseline file"),
        (lambda _: "{}", "not a baseline file"),
        (lambda text: text.replace('baseline": 1', 'baseline": 2'), "update tbench"),
        (lambda text: text.replace("0.25", "-0.25"), "not a baseline file"),
        (lambda text: text.replace("0.25", "null"), "not a baseline file"),
        (lambda text: text.replace("[500, 500]", "[500]"), "not a baseline file"),
        (lambda text: text.replace("[2, 0]", "[501, 0]"), "not a baseline file"),
        (lambda text: text.replace("2026-11-01T02", "yesterday"), "not a baseline file"),
        (lambda text: text.replace('"trace-1"', '"other"', 1), "several traces"),
        (
            lambda text: text.replace("2026-11-02", "2026-11-01"),
            "holds the runs of 2026-11-01.* twice",
        ),
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, change: Any, said: str) -> None:
    """A merge gone wrong, a cut, another program's file, figures that cannot be."""
    path = tmp_path / "b.json"
    path.write_text(change(written([session(0), session(1)])))

    with pytest.raises(InputError, match=said) as caught:
        read_history(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_history(tmp_path / "none.json")
    with pytest.raises(InputError, match="no does not exist"):
        write_history(History(path=tmp_path / "no" / "b.json", sessions=()))
