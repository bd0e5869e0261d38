"""`tbench compare` with gates as a user runs it: exit codes, text, JSON, files, and every bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tbench.__main__ import run as tbench
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample

GATE = ("--gate", "e2e:p50:10%")


class Said(NamedTuple):
    code: int
    out: str
    err: str


Compare = Callable[..., Said]


def write_run(path: Path, wall_ns: int, slow: float) -> None:
    """A run of 200 requests, all as slow as that."""
    header = {"wall_ns": wall_ns, "trace": {"capture_id": "t"}, "pacing": {"open_loop": True}}
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for index in range(200):
        at, took = index * 0.1, slow * (1 + index % 7 / 10)
        writer.add(
            Sample(
                id=f"r{index}",
                index=index,
                endpoint="chat",
                model="m",
                stream=True,
                due=at,
                sent=at,
                first_token=at + took / 2,
                last_token=at + took,
                end=at + took,
                status=200,
                output_tokens=9,
                token_times=(at + took / 2, at + took),
            )
        )
    counts = {"planned": 200, "completed": 200, "failed": 0, "cancelled": 0}
    writer.close({**counts, "lost_in_flight": 0, "never_sent": 0, "warmup_s": 0.0})


@pytest.fixture
def compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Compare:
    """`tbench compare` in a folder with three runs each of A and of B, half as fast, which took turns."""
    monkeypatch.chdir(tmp_path)
    for pair in range(3):
        for place, arm in enumerate("AB" if pair % 2 else "BA"):
            wall = 10**18 + (2 * pair + place) * 10**9
            slow = {"A": 1.0, "B": 1.5}[arm] * (1 + 0.002 * pair)
            write_run(tmp_path / f"{arm}-{pair}.run", wall, slow)

    def run(*arguments: object) -> Said:
        code = tbench(["compare", *map(str, arguments)])
        return Said(code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    "arguments",
    ["A* B-*.run", "B-*.run A*", "A* --save-baseline b.json", "A* --self-check", "B-*.run B-0.run"],
)
def test_a_run_and_its_copy_are_no_two_runs(
    compare: Compare, tmp_path: Path, arguments: str
) -> None:
    """Nothing varies from one to the other; both files are named, and nothing is judged or kept."""
    (tmp_path / "A-copy.run").write_bytes((tmp_path / "A-1.run").read_bytes())
    words = arguments.split()
    ended = compare(*words, *(() if "--self-check" in words else GATE))
    pair = ("B-0.run", "B-0.run") if "B-0.run" in words else ("A-1.run", "A-copy.run")

    assert (ended.code, ended.out) == (2, "")
    assert f"{pair[0]} and {pair[1]}: one run, named twice or copied" in ended.err
    assert not (tmp_path / "b.json").exists()


def test_a_gate_ends_with_its_verdicts_exit_code(compare: Compare) -> None:
    """PASS 0, FAIL 1, INCONCLUSIVE 3; bad usage 2."""
    assert compare("A-*.run", "B-*.run", *GATE).code == 1
    assert compare("B-*.run", "A-*.run", *GATE).code == 0
    assert compare("A-0.run", "B-0.run", *GATE).code == 3
    assert compare("A-*.run", "A-*.run", *GATE).code == 2
    assert compare("A-*.run", "B-*.run", "--gate", "e2e").code == 2
    assert compare("C-*.run", "B-*.run", *GATE).code == 2


def test_the_json_of_a_gate(compare: Compare) -> None:
    """One object with the verdict of all, of each arm and of each gate."""
    said = json.loads(compare("A-*.run", "B-*.run", *GATE, "--json").out)
    row = said["comparisons"][0]

    assert (said["verdict"], said["requests"], said["contrast"]) == ("FAIL", 200, "welch")
    assert [arm["verdict"] for arm in said["arms"]] == [None, "FAIL"]
    assert (row["runs"], row["scale"], row["margin"], row["limit"]) == ([3, 3], "ratio", 0.1, None)
    assert row["ratio"] == pytest.approx(1.5, rel=0.01)


def test_an_slo_on_the_command_line(compare: Compare) -> None:
    """B's requests take 1.5 to 2.4 s, A's 1.0 to 1.6 s."""
    told = ("--slo", "ttft<1s,e2e<1.7s", "--gate", "goodput>=90%", "--json")
    kept, missed = compare("B-*.run", "A-*.run", *told), compare("A-*.run", "B-*.run", *told)

    assert (kept.code, missed.code) == (0, 1)
    assert json.loads(kept.out)["slo"] == ["ttft<1s", "e2e<1.7s"]
    assert json.loads(missed.out)["comparisons"][0]["limit"] == 0.9


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("--slo", "ttft<1s"), "--slo needs a gate"),
        (("--trend",), "several runs need a gate"),
        (("--gate", "goodput:1pp"), "say what is good with --slo"),
        ((*GATE, "--metric", "ttft"), "are for one pair of runs"),
        ((*GATE, "--warmup", "x"), "--warmup"),
        ((*GATE, "--self-check", "--trend"), "--self-check has no page"),
    ],
)
def test_bad_usage_is_one_line(compare: Compare, told: tuple[str, ...], said: str) -> None:
    done = compare("A-*.run", "B-*.run", *told)

    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_warm_up_of_a_gate_can_be_told(compare: Compare) -> None:
    """The runs say none; 10 s are a hundred requests."""
    found = compare("A-*.run", "B-*.run", *GATE, "--warmup", "10", "--json")

    assert json.loads(found.out)["requests"] == 100


def test_a_trend_is_declared_by_who_asks_for_it(compare: Compare) -> None:
    """These runs went B A, A B, B A: by a rule, so the trend contrast decides nothing."""
    done = compare("A-*.run", "B-*.run", *GATE, "--trend")

    assert done.code == 3
    assert "declared by the one who ran this" in " ".join(done.out.split())
    assert "! the arms took turns by a rule" in done.out


def test_a_judgement_goes_where_it_is_sent(compare: Compare, tmp_path: Path) -> None:
    """JUnit and Markdown to files beside the JSON; or Markdown instead of the text."""
    files = ("--junit", "x.xml", "--markdown", "x.md")
    done = compare("A-*.run", "B-*.run", *GATE, *files, "--json")
    printed = compare("A-*.run", "B-*.run", *GATE, "--markdown", "-")

    assert (done.code, printed.code) == (1, 1)
    assert json.loads(done.out)["verdict"] == "FAIL"
    assert (tmp_path / "x.xml").read_text().startswith("<?xml")
    assert (tmp_path / "x.md").read_text().startswith("### tbench: FAIL")
    assert printed.out.startswith("### tbench: FAIL")


def test_markdown_of_one_pair(compare: Compare) -> None:
    done = compare("A-0.run", "B-0.run", "--markdown", "-")

    assert done.code == 0
    assert done.out.startswith("### tbench: ADVISORY")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("A-*.run", "B-*.run", *GATE, "--json", "--markdown", "-"), "both print to stdout"),
        (
            ("A-*.run", "B-*.run", *GATE, "--junit", "no/x.xml"),
            "--junit no/x.xml: the folder no does not exist",
        ),
        (("A-*.run", "B-*.run", *GATE, "--markdown", "A-0.run"), "this is a trace or a run"),
        (("A-0.run", "B-0.run", "--junit", "x.xml"), "--junit has a test case for each gate"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(
    compare: Compare, told: tuple[str, ...], said: str
) -> None:
    done = compare(*told)

    assert done.code == 2
    assert said in done.err


def session(folder: Path, day: int, slow: float = 1.0, runs: int = 3) -> str:
    """The runs of one night, in a folder."""
    place = folder / f"night-{day}"
    place.mkdir()
    for run in range(runs):
        wall = (1_800_000_000 + day * 86_400 + run * 60) * 10**9
        write_run(place / f"{run}.run", wall, slow * (1 + 0.01 * (day * 7 % 5) + 0.002 * run))
    return place.name


def test_a_baseline_file_grows_and_then_judges(compare: Compare, tmp_path: Path) -> None:
    """Four nights cannot tell; from five on equal runs pass and slower ones fail."""
    file = ("--baseline-file", "base.json")
    nights = [session(tmp_path, day) for day in range(6)]
    slow = session(tmp_path, 9, 1.5)
    for night in nights[:4]:
        assert compare("--save-baseline", "base.json", night, *GATE).code == 0
    few = compare(*file, slow, *GATE)
    kept = compare("--save-baseline", "base.json", f"{nights[4]}/*.run", *GATE)

    assert few.code == 3
    assert "! 4 sessions of e2e:p50; a verdict needs 5" in few.out
    assert kept.out.startswith("base.json: 5 sessions from 2027-01-15 to 2027-01-19")
    assert compare(*file, nights[5], *GATE).code == 0
    failed = compare(*file, slow, *GATE, "--json", "--junit", "x.xml", "--markdown", "x.md")
    assert failed.code == 1
    assert json.loads(failed.out)["history"]["sessions"] == 5
    assert "<failure" in (tmp_path / "x.xml").read_text()


def test_runs_of_one_arm_may_be_named_one_by_one(compare: Compare, tmp_path: Path) -> None:
    """As a shell writes an unquoted glob out."""
    night = session(tmp_path, 0)
    runs = [f"{night}/{run}.run" for run in range(3)]
    kept = json.loads(compare("--save-baseline", "b.json", *runs, *GATE, "--json").out)

    assert kept == {
        "file": "b.json",
        "sessions": 1,
        "missing": 4,
        "recorded": "2027-01-15T08:00:00.000+00:00",
        "figures": ["e2e:p50", "errors"],
    }
    part = compare("--baseline-file", "b.json", *runs[1:], *GATE)
    assert part.code == 2, "held against themselves runs agree too well"
    assert "these runs are a session of b.json, or part of one" in part.err


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (("--baseline-file", "none.json", "A-*.run", *GATE), "none.json: cannot be read"),
        (("--baseline-file", "A-0.run", "A-*.run", *GATE), "not a baseline file"),
        (("--baseline-file", "b.json", "A-*.run"), "--margin 5%"),
        (("--baseline-file", "b.json", "A-*.run", *GATE, "--trend"), "--trend is for runs"),
        (
            ("--baseline-file", "b.json", "--save-baseline", "b.json", "A-*.run", *GATE),
            "one after the",
        ),
        (("--save-baseline", "b.json", "A-*.run"), "keeps the figures of gates"),
        (("--save-baseline", "b.json", "A-*.run", *GATE, "--junit", "x"), "judges nothing"),
        (("--save-baseline", "b.json", "A-*.run", *GATE, "--html", "x"), "judges nothing"),
        (
            ("--save-baseline", "no/b.json", "A-*.run", *GATE),
            "no/b.json: the folder no does not exist",
        ),
        (("A-*.run",), "several need --margin or --gate"),
        (("A-*.run", *GATE), "a CANDIDATE is missing"),
        (("A-0.run", "B-0.run", "A-1.run"), "one pair of runs"),
        (("A-0.run", "B-0.run", "A-1.run", *GATE), "quote the globs"),
    ],
)
def test_what_a_baseline_file_cannot_do_is_one_line(
    compare: Compare, tmp_path: Path, told: tuple[str, ...], said: str
) -> None:
    (tmp_path / "b.json").write_text('{"tbench_baseline": 1, "sessions": []}')
    done = compare(*told)

    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_several_candidates_on_the_command_line(compare: Compare, tmp_path: Path) -> None:
    """The first is the baseline, every other one a candidate."""
    for pair in range(3):
        write_run(tmp_path / f"C-{pair}.run", 10**18 + (2 * pair + 1) * 10**9 + 5 * 10**8, 1.0)
    found = json.loads(compare("A-*.run", "B-*.run", "C-*.run", *GATE, "--json").out)

    assert [arm["name"] for arm in found["arms"]] == ["A-*.run", "B-*.run", "C-*.run"]
    assert found["arms"][1]["verdict"] == "FAIL"


def test_the_page_and_the_workbook_hold_gates_of_every_kind(
    compare: Compare, tmp_path: Path
) -> None:
    """A change as a ratio and in points, a rate, a limit; what was asked and what became of it."""
    gates = ["e2e:p50:10%", "errors:5pp", "goodput:5pp", "goodput>=90%", "requests_per_s:5%"]
    told = [word for gate in [*gates, "ttft:p50<=5s"] for word in ("--gate", gate)]
    files = ("--html", "x.html", "--xlsx", "x.xlsx", "--trend")
    done = compare("A-*.run", "B-*.run", *told, "--slo", "e2e<1.7s", *files)
    page = (tmp_path / "x.html").read_text()

    assert done.code == 1
    assert "≥ 90%" in page
    assert "≤ 5s" in page
    assert "Goodput counts the requests that succeeded with e2e&lt;1.7s" in page
    assert "declared by the one who ran this" in page
    assert (tmp_path / "x.xlsx").stat().st_size > 0
    assert compare("--baseline-file", "b.json", "A-*.run", *GATE, "--html", "y.html").code == 2
