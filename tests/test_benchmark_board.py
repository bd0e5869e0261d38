"""The dashboard: what it shows of a sweep, on any terminal; what is logged meanwhile is not lost."""

import re
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from tbench.benchmark.board import Log, SweepBoard, SweepState, _edges, drawn
from tbench.benchmark.sweep import Point
from tbench.board import Board
from tbench.replay.counted import Spread
from tbench.replay.run_recorder import Side, Tally
from tbench.replay.runner import Progress
from tbench.replay.sample import Fate


class Sending:
    """Workers of which only the counters are asked for."""

    in_flight = 4
    now = 10.0

    def issued(self, _arm: int) -> int:
        return 50


def spread_of(*values: float) -> Spread:
    spread = Spread()
    spread.add(np.array(values))
    return spread


def side(tokens: int, *seconds: float) -> Side:
    return Side(
        latency=spread_of(*seconds),
        speed=spread_of(*(10 / value for value in seconds)),
        tokens=tokens,
    )


def point(value: float = 1, scenario: str = "D(100,100)") -> Point:
    return Point(
        scenario=scenario, axis="num_concurrency", value=value, concurrency=1, rate=None,
        batch_size=1, repeat=1, seed=0,
    )  # fmt: skip


def metrics(ttft: float | None = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "requests_per_second": 2.0, "mean_input_throughput_tokens_per_s": 200.0,
        "mean_output_throughput_tokens_per_s": 190.0, "error_rate": 0.0,
        "without_token_counts": {"input": 0, "output": 0},
        "stats": {"ttft": {"mean": ttft}, "e2e_latency": {"p99": 1500.0}}, **more,
    }  # fmt: skip


def sweep(**more: Any) -> SweepState:
    usual: dict[str, Any] = {
        "heading": "text-to-text  http://127.0.0.1:1", "points": 4, "requests": 100,
        "duration_s": 40.0, "unit": "ms", "speaks": True, "point": "D(100,100) num_concurrency 4",
        "made": [(point(1), metrics()), (point(2), metrics(None, error_rate=1.0))],
        "lines": [f"line {k}" for k in range(40)],
    }  # fmt: skip
    return SweepState(**{**usual, **more})


def live(ended: int = 50) -> Progress:
    """45 done, 4 failed; first tokens after 100, 200 and 400 ms."""
    workers: Any = Sending()
    tally = Tally(ended=ended, input=side(12_340, 0.1, 0.2, 0.4), output=side(12_340, 1.0, 2.0))
    tally.fates[Fate.COMPLETED] = 45
    tally.errors.update({"http_429": 3, "timeout": 1})
    return Progress(pool=workers, tallies=[tally], expected=lambda: None, duration_s=40.0)


def shown(of: SweepState, width: int, height: int, at: Progress | None = None) -> list[str]:
    console = Console(
        record=True, width=width, height=height, file=StringIO(), force_terminal=True, _environ={}
    )
    console.print(drawn(of, at or live(), 61.0, width, height), end="")
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [20, 79, 80, 100, 159, 160, 240])
@pytest.mark.parametrize("height", [6, 23, 24, 30, 80])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    """No line is wider, nothing is below the last line, and the progress is always there."""
    lines = shown(sweep(), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("sweep")
    assert lines[2].startswith("point")


def test_a_small_terminal_shows_all_figures() -> None:
    text = "\n".join(shown(sweep(), 80, 24))

    assert "62% point 3 of 4" in text, "two points and a half of four"
    assert "about 0:10 left" in text
    assert "50 of 100 sent  4.50/s  4 in flight  45 done  4 failed: http_429 3, timeout 1" in text
    assert "input 1,234 tokens/s" in text
    for name, ms in (
        ("avg", "233"),
        ("min", "100"),
        ("max", "400"),
        ("p50", "200"),
        ("p99", "400"),
    ):
        assert any(f"{name} " in line and f" {ms} " in line for line in text.splitlines()), name
    assert "100.0%" in text, "a point whose requests all failed is a row like any other"
    assert "line 39" in text


def test_a_search_has_no_end_to_be_shown() -> None:
    lines = shown(sweep(points=None), 80, 24)

    assert lines[1].split() == ["sweep", "point", "3"]
    assert " 50% D(100,100)" in lines[2]


def test_between_two_points_nothing_is_made_up() -> None:
    console = Console(width=120, height=30, file=StringIO(), _environ={})
    console.print(drawn(sweep(), None, 1.0, 120, 30))
    text = console.file.getvalue()  # type: ignore[attr-defined]

    assert "0 of 100 sent  0/s  0 in flight  0 done" in text
    assert text.count("nothing completed yet") == 2


def test_edges_of_bins_have_the_digits_that_tell_them_apart() -> None:
    assert _edges([0.1, 0.2]) == ["0.1", "0.2"]
    assert _edges([0.3121, 0.3123]) == ["0.3121", "0.3123"]
    assert _edges([1234.1, 1234.2]) == ["1,234.1", "1,234.2"]
    assert _edges([100.0, 115.0, 1071.0]) == ["100", "115", "1,071"]


def test_one_that_is_too_small_shows_a_line_for_each_side() -> None:
    text = shown(sweep(), 70, 10)

    assert text[4].startswith("input TTFT p50 200  p90 400  p99 400 ms")
    assert text[5].startswith("output")
    assert text[9].strip() == "line 39"


def test_what_gives_no_text_has_no_output_side() -> None:
    text = "\n".join(shown(sweep(speaks=False), 100, 40))

    assert "output" not in text


def test_the_errors_of_points_and_the_last_of_the_log_stay() -> None:
    many = sweep(made=[(point(k), metrics()) for k in range(30)])
    text = "\n".join(shown(many, 80, 24))

    assert re.search(r"D\(100,100\) +29", text)
    assert "25 more" in text, "how many have no row"


def test_an_invalid_point_and_a_lower_bound_are_called_so() -> None:
    bound = metrics(without_token_counts={"input": 2, "output": 0})
    made = [(point(1), metrics(valid=False)), (point(2), bound)]
    text = "\n".join(shown(sweep(made=made), 100, 30))

    assert text.count("0.0% INVALID") == 1
    assert text.count("≥ 200") == 1


def test_a_long_scenario_does_not_hide_where_its_point_is() -> None:
    long = sweep(made=[(point(256, "N(480,240)/(300,150)"), metrics())])

    assert any("N(480" in line and " 256 " in line for line in shown(long, 80, 24))


@pytest.mark.parametrize(("ended", "share"), [(10, 25), (50, 50), (200, 100)])
def test_the_progress_of_a_point_is_the_larger_of_time_and_requests(ended: int, share: int) -> None:
    line = shown(sweep(), 100, 30, live(ended))[2]

    assert f" {share}% D(100,100)" in line
    assert f"about 0:{round(10 / share * 100 - 10):02d} left" in line


@pytest.fixture
def log() -> Iterator[tuple[Log, StringIO]]:
    file = StringIO()
    yield Log(file), file


def test_what_is_logged_meanwhile_stays_below(
    log: tuple[Log, StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen and in the file at once; on stderr when the screen is given back, others' lines too."""
    console = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    board = SweepBoard(sweep(), log[0], console, now=lambda: 0.0)
    log[0].say("first")
    print("from elsewhere", file=sys.stderr)
    meanwhile = capsys.readouterr().err
    board.close()
    log[0].say("last")

    assert meanwhile == ""
    assert capsys.readouterr().err == "first\nfrom elsewhere\nlast\n"
    assert "first" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "first" in log[1].getvalue()


def test_a_picture_that_fails_does_not_end_the_benchmark(
    log: tuple[Log, StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    board = SweepBoard(sweep(requests=0), log[0], console, now=lambda: 0.0)
    log[0].say("it goes on")
    log[0].say("plainly")
    board.close()

    err = capsys.readouterr().err
    assert "the display failed (ZeroDivisionError" in err
    assert err.endswith("plainly\n")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_the_region_is_drawn_on_stderr_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others print there goes to `lines`, and the drawing does not; a log or a pipe gets lines."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    with Board(lambda line: Text(f"[{line}]"), screen=True) as board:
        board.show("12 sent")
        print("from elsewhere", file=sys.stderr)
        drawing = stderr.getvalue()

    assert "[12 sent]" in drawing
    assert "from elsewhere" not in drawing
    assert stderr.getvalue().endswith("from elsewhere\n")


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What is shown under a heading is below it; the end of a part is no line."""
    with Board() as board:
        board.begin("round 1 of 2: a")
        board.show("0:10  12 sent")
        board.show("")
        board.say("a.1.run  12 of 12 done")

    assert capsys.readouterr().err.splitlines() == [
        "round 1 of 2: a",
        "  0:10  12 sent",
        "a.1.run  12 of 12 done",
    ]
