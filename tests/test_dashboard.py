"""The dashboard: what a frame shows, at every size of terminal; the board hears what is said."""

import re
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from tbench.benchmark.dashboard.board import Story, Sweep, TerminalBoard, frame
from tbench.benchmark.dashboard.drawing import TALL, drawn
from tbench.benchmark.dashboard.frame import (
    Dot,
    Finished,
    Frame,
    Half,
    Load,
    Progress,
    bar,
    edges,
    number,
    scatter,
)
from tbench.benchmark.view import Log
from tbench.capture.histogram import Histogram
from tbench.replay.run_recorder import Tally
from tbench.replay.runner import Live


def spread_of(*values: float) -> Histogram:
    spread = Histogram()
    for value in values:
        spread.add(value)
    return spread


def half(title: str, *seconds: float) -> Half:
    return Half(
        title=title,
        what="TTFT",
        latency=spread_of(*seconds),
        speed=spread_of(*(10 / one for one in seconds)),
        per_s=1234.0,
    )


def finished(mark: str, **more: Any) -> Finished:
    usual: dict[str, Any] = {
        "scenario": "D(100,100)", "requests_per_s": 2.0, "input_per_s": 200.0, "output_per_s": 190.0,
        "ttft": 0.1, "output_latency": 1.0, "e2e_p99": 1.5, "error_rate": 0.0,
    }  # fmt: skip
    return Finished(**{**usual, **more, "mark": mark})


def whole(**more: Any) -> Frame:
    usual: dict[str, Any] = {
        "heading": "text-to-text  http://127.0.0.1:1",
        "progress": Progress(
            made=2, of=4, name="D(100,100) num_concurrency 4", fraction=0.5, elapsed_s=61.0, left_s=9.0
        ),
        "load": Load(
            sent=50, most=100, per_s=5.0, in_flight=4, completed=45, errors={"http_429": 3, "timeout": 1}
        ),
        "input": half("input", 0.1, 0.2, 0.4),
        "output": half("output", 1.0, 2.0),
        "finished": [finished("1"), finished("2", ttft=None, error_rate=1.0, output_latency=None)],
        "log": [f"line {k}" for k in range(40)],
        "unit": "ms",
    }  # fmt: skip
    return Frame(**{**usual, **more})


def shown(one: Frame, width: int, height: int) -> list[str]:
    console = Console(
        record=True, width=width, height=height, file=StringIO(), force_terminal=True, _environ={}
    )
    console.print(drawn(one, width, height), end="")
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [20, 79, 80, 100, 159, 160, 240])
@pytest.mark.parametrize("height", [6, 23, 24, TALL - 1, TALL, 80])
def test_a_frame_fits_every_terminal(width: int, height: int) -> None:
    """No line is wider, nothing is below the last line, and the progress is always there."""
    lines = shown(whole(), width, height)

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("sweep")
    assert lines[2].startswith("point")


def test_a_small_terminal_shows_all_figures() -> None:
    text = "\n".join(shown(whole(), 80, 24))

    assert "62% point 3 of 4" in text, "two points and a half of four"
    assert "about 0:09 left" in text
    assert "50 of 100 sent  5.00/s  4 in flight  45 done  4 failed: http_429 3, timeout 1" in text
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
    progress = Progress(made=2, of=None, name="p", fraction=0.5, elapsed_s=1.0, left_s=None)
    lines = shown(whole(progress=progress), 80, 24)

    assert lines[1].split() == ["sweep", "point", "3"]
    assert " 50% p" in lines[2]


def test_edges_of_bins_have_the_digits_that_tell_them_apart() -> None:
    assert edges([0.1, 0.2], "s") == ["0.100", "0.200"]
    assert edges([0.3121, 0.3123], "s") == ["0.3121", "0.3123"]
    assert edges([1.2341, 1.2342], "ms") == ["1,234.1", "1,234.2"]


def test_one_that_is_too_small_shows_a_line_for_each_half() -> None:
    text = shown(whole(), 70, 10)

    assert text[4].startswith("input TTFT p50 200  p90 400  p99 400 ms")
    assert text[5].startswith("output")
    assert text[9].strip() == "line 39"


def test_a_tall_one_has_a_dot_for_each_point() -> None:
    text = "\n".join(shown(whole(), 100, TALL))

    assert text.count("●") == 2, "the first point in both pictures; the second has no latency"
    assert "mean TTFT by input tokens/s" in text


def test_what_gives_no_text_has_no_output_half() -> None:
    text = "\n".join(shown(whole(output=None), 100, TALL))

    assert "output" not in text.replace("out tok/s", "")


def test_the_errors_of_points_and_the_last_of_the_log_stay() -> None:
    many = whole(finished=[finished(str(k)) for k in range(30)])
    text = "\n".join(shown(many, 80, 24))

    assert re.search(r"D\(100,100\) +29", text)
    assert "25 more" in text, "how many have no row"


def test_an_invalid_point_is_called_so() -> None:
    text = "\n".join(shown(whole(finished=[finished("1", valid=False), finished("2")]), 80, 24))

    assert text.count("0.0% INVALID") == 1


def test_a_long_scenario_does_not_hide_where_its_point_is() -> None:
    long = whole(finished=[finished("256", scenario="N(480,240)/(300,150)")])

    assert any("N(480" in line and " 256 " in line for line in shown(long, 80, 24))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0"), (0.012345, "0.0123"), (12.345, "12.3"), (123.4, "123"),
        (999.6, "1,000"), (1234.5, "1,234"), (123456.0, "123,456"), (1234567.0, "1.23M"),
        (5.4e-5, "5.4e-05"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, ""), (0.001, "▏"), (0.5, "██"), (1, "████"), (0.53125, "██▏"), (2, "████")],
)
def test_a_bar_is_exact_to_an_eighth(share: float, text: str) -> None:
    assert bar(share, 4) == text


def test_a_scatter_puts_points_where_they_are() -> None:
    """The least at the bottom left, the greatest at the top right, marks beside them."""
    dots = [Dot(0.0, 0.0, "1", 0), Dot(50.0, 0.5, "2", 0), Dot(100.0, 1.0, "4", 1)]
    lines = [line.plain for line in scatter(dots, 40, 12, "s")]

    assert lines[0].endswith("4●")
    assert lines[0].startswith("1.00 │")
    assert lines[9].startswith("   0 │●1")
    assert lines[4].index("●") == pytest.approx(6 + 17, abs=1)
    assert lines[11].split() == ["0", "100"]
    assert {len(line) for line in lines} == {40}


def test_a_scatter_of_one_point_says_where_it_is() -> None:
    lines = [line.plain for line in scatter([Dot(7.0, 0.25, "1", 0)], 40, 12, "ms")]

    assert [line for line in lines if "●1" in line and line.startswith("250 │")]
    assert lines[11].split() == ["7.00"]
    assert "250" not in lines[0] + lines[9]


class Sending:
    """A crew of which only the counters are asked for."""

    in_flight = 3
    now = 10.0

    def issued(self, _arm: int) -> int:
        return 12


SWEEP = Sweep(heading="x", points=4, requests=100, duration_s=40.0, unit="s", speaks=True)


@pytest.mark.parametrize(("ended", "share"), [(10, 0.25), (50, 0.5), (200, 1.0)])
def test_the_progress_of_a_point_is_the_larger_of_time_and_requests(
    ended: int, share: float
) -> None:
    crew: Any = Sending()
    live = Live(crew=crew, tallies=[Tally(ended=ended)], expected=lambda: None, duration_s=40.0)
    found = frame(SWEEP, Story(point="p"), live, 12.0)

    assert found.progress.fraction == share
    assert found.progress.left_s == pytest.approx(10 / share - 10)
    assert found.load.in_flight == 3


def test_a_point_in_ms_is_shown_in_its_true_size() -> None:
    stats: dict[str, Any] = {
        "ttft": {"mean": 250.0}, "output_latency": {"mean": 1000.0}, "e2e_latency": {"p99": None},
    }  # fmt: skip
    found = Finished.of(
        {
            "stats": stats, "scenario": "E(4)", "requests_per_second": 1.0, "error_rate": 0.0,
            "mean_input_throughput_tokens_per_s": 1.0, "mean_output_throughput_tokens_per_s": 0.0,
            "without_token_counts": {"input": 2, "output": 0},
        },
        4.0,
        "ms",
    )  # fmt: skip

    assert (found.ttft, found.output_latency, found.e2e_p99) == (0.25, 1.0, None)
    assert found.mark == "4"
    assert found.at_least == {"input"}


@pytest.fixture
def log() -> Iterator[tuple[Log, StringIO]]:
    file = StringIO()
    yield Log(file), file


def test_what_is_said_meanwhile_stays_below(
    log: tuple[Log, StringIO], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the screen and in the file at once; on stderr when the screen is given back, others' lines too."""
    console = Console(file=StringIO(), force_terminal=True, width=80, height=24)
    board = TerminalBoard(console, SWEEP, log[0], clock=lambda: 0.0)
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
    failing = Sweep(heading="x", points=4, requests=0, duration_s=40.0, unit="s", speaks=True)
    board = TerminalBoard(console, failing, log[0], clock=lambda: 0.0)
    log[0].say("it goes on")
    log[0].say("plainly")
    board.close()

    said = capsys.readouterr().err
    assert "the dashboard failed (ZeroDivisionError" in said
    assert said.endswith("plainly\n")
