"""`tbench report` as a user runs it: the same numbers as the replay's, samples, refusals, bad input."""

import json
import stat
import time
from pathlib import Path

import pytest

from tbench.__main__ import run as tbench
from tbench.capture.exchange import Outcome
from tbench.replay.runfile import RunWriter, read_run
from tbench.replay.sample import Sample
from tbench.replay.totals import numbers

Said = pytest.CaptureFixture[str]
COLUMNS = (
    "id due_s sent_s sent_wall_ns first_wall_ns ttft_s tpot_s e2e_s prompt_tokens output_tokens status"
    " outcome"
)


def run_file(path: Path, n: int = 50, outcome: Outcome = Outcome.OK) -> Path:
    """A run whose every third sample is a whole answer without a stream."""
    writer = RunWriter(path, {"trace": {"capture_id": "c1"}}, clock=time.monotonic)
    for k in range(n):
        stream = k % 3 != 0
        writer.add(
            Sample(
                id=f"r{k}",
                index=k,
                endpoint="chat",
                model="m",
                stream=stream,
                due=k * 0.1,
                sent=k * 0.1 + 0.0001,
                first_token=k * 0.1 + 0.03 if stream else None,
                last_token=k * 0.1 + 0.23 if stream else None,
                end=k * 0.1 + 0.25,
                sent_wall_ns=1_700_000_000_000_000_000 + k,
                status=200 if outcome is Outcome.OK else None,
                output_tokens=21 if stream else None,
                outcome=outcome,
            )
        )
    ok = n if outcome is Outcome.OK else 0
    rest = {"cancelled": 0, "lost_in_flight": 0, "never_sent": 0}
    return writer.close({"planned": n, "completed": ok, "failed": n - ok, **rest})


def test_the_numbers_are_those_of_the_replay(tmp_path: Path, capsys: Said) -> None:
    """Everything that `replay --json` said about this run, again."""
    path = run_file(tmp_path / "a.run")

    assert tbench(["report", str(path), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(numbers(read_run(path))))
    assert {name: found[name] for name in expected} == expected
    assert found["summaries"]["ttft"]["quantiles"]["p50"]["value"] == pytest.approx(0.03)
    assert "2,000" in found["summaries"]["ttft"]["quantiles"]["p99"]["refusal"]
    assert "samples" not in found


def test_samples_are_equally_long_arrays(tmp_path: Path, capsys: Said) -> None:
    """The promised names, null where absent, seconds from the run's start."""
    tbench(["report", str(run_file(tmp_path / "a.run")), "--json", "--samples"])

    samples = json.loads(capsys.readouterr().out)["samples"]
    assert list(samples) == COLUMNS.split()
    assert {len(column) for column in samples.values()} == {50}
    assert [samples[name][0] for name in ("id", "ttft_s", "output_tokens", "status")] == [
        "r0",
        None,
        None,
        200,
    ]
    assert samples["ttft_s"][1] == pytest.approx(0.03)
    assert samples["tpot_s"][1] == pytest.approx(0.01)
    assert samples["e2e_s"][0] == pytest.approx(0.25)
    assert samples["sent_wall_ns"][1] == 1_700_000_000_000_000_001


def test_the_text_and_the_page(tmp_path: Path, capsys: Said) -> None:
    """Text on stdout without escapes; the page in a private file."""
    page = tmp_path / "run.html"

    assert tbench(["report", str(run_file(tmp_path / "a.run")), "--html", str(page)]) == 0

    said = capsys.readouterr()
    assert "planned 50 = completed 50" in said.out
    assert "\x1b" not in said.out
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_a_run_without_a_success_is_reported_and_fails(tmp_path: Path, capsys: Said) -> None:
    """What went wrong is worth printing; the exit code is that of an unreachable target."""
    path = run_file(tmp_path / "dead.run", outcome=Outcome.CONNECT_ERROR)

    assert tbench(["report", str(path)]) == 5

    said = capsys.readouterr()
    assert "errors: connect_error 50" in said.out
    assert "no request succeeded" in said.err


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("a.run", "this is a trace or a run"),
        ("none/x.html", "the folder none does not exist"),
        (".", "directory"),
        ("/dev/full", "No space left"),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said, place: str, words: str
) -> None:
    """It names the file, and no run is overwritten by its own report."""
    before = run_file(tmp_path / "a.run").read_bytes()
    monkeypatch.chdir(tmp_path)

    assert tbench(["report", "a.run", "--html", place]) == 2

    said = capsys.readouterr().err
    assert words in said
    assert f"--html {place}" in said
    assert (tmp_path / "a.run").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.run"], "missing.run"),
        (["junk.run"], "junk.run"),
        (["empty.run"], "it holds no request"),
        (["a.run", "--samples"], "--json"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Said,
    arguments: list[str],
    words: str,
) -> None:
    """What is wrong and where, exit code 2, nothing on stdout."""
    run_file(tmp_path / "a.run")
    run_file(tmp_path / "empty.run", n=0)
    (tmp_path / "junk.run").write_text("no run at all")
    monkeypatch.chdir(tmp_path)

    assert tbench(["report", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("experiment_metadata.json", "a benchmark's folder of 1 run"),
        ("plan.json", "an experiment's folder of 1 run"),
    ],
)
def test_a_folder_of_runs_is_not_read_as_its_traces(
    mark: str, said: str, tmp_path: Path, capsys: Said
) -> None:
    """One line that names a run and where all of them are shown; the traces in it are no result."""
    folder = tmp_path / "bench"
    (folder / "runs").mkdir(parents=True)
    (folder / mark).write_text("{}")
    path = run_file(folder / "runs" / "point.run")

    assert tbench(["compare", str(folder), str(path)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert str(path) in shown.err
    assert not shown.out


@pytest.mark.parametrize(
    ("folder", "pattern"), [("ab", "a*/now.*.run"), ("a[1]", "a[1]/*.run"), ("a*", "a*/now.*.run")]
)
def test_a_pattern_of_one_run_is_that_run(
    folder: str, pattern: str, tmp_path: Path, capsys: Said
) -> None:
    """Also where the folder's name has it, as a shell that expands none leaves it, or such signs."""
    (tmp_path / folder).mkdir()
    path = run_file(tmp_path / folder / "now.1.run")

    assert tbench(["report", str(tmp_path / pattern), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)


@pytest.mark.parametrize(
    "verb",
    [
        *("report {}", "compare {} {}", "replay {} --base-url http://127.0.0.1:9"),
        *("trace info {}", "trace check {}", "trace export {} -o x.csv --format csv"),
    ],
)
@pytest.mark.parametrize("name", ["*.run", "."])
def test_several_runs_where_one_file_is_wanted_are_called_runs(
    verb: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """A pattern or a folder of nothing else: how many there are, and who takes them."""
    for number in (1, 2):
        run_file(tmp_path / f"now.{number}.run")
    monkeypatch.chdir(tmp_path)

    assert tbench([word.format(name) for word in verb.split()]) == 2
    said = capsys.readouterr()
    assert "but 2 runs: 'tbench report RUN' shows one, 'tbench compare A B --margin 5%'" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
