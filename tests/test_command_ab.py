"""tbench ab from the command line: runs in turns, a verdict, and going on where it stopped."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import tbench as tbench_api
from tbench.abtest.board import outlook_text
from tbench.abtest.plan import experiment
from tbench.abtest.runner import answered, outlook
from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import read_run
from tests.answering import stalling
from tests.conftest import Done, Server, interruptible, until
from tests.recorded import chat_request

WIDE = ("--gate", "ttft:p50:900%", "--gate", "errors:20pp")
TEXTS = {".json", ".md", ".xml"}
PACED = (
    "--concurrency",
    "8",
    "--warmup",
    "none",
    "--redo-invalid",
    "9",
)  # a busy machine reads late


def exchange(seq: int) -> Exchange:
    """A chat request with a long system prompt that all of them share."""
    body = json.dumps(
        {
            "model": "openai/gpt-oss-20b",
            "messages": [
                {"role": "system", "content": "Be brief. " * 100},
                {"role": "user", "content": f"Question {seq}"},
            ],
            "max_tokens": 4,
            "stream": True,
        }
    ).encode()
    at = seq * 10_000_000
    usage = b'{"usage":{"prompt_tokens":300,"completion_tokens":4}}'
    return Exchange(
        request=chat_request(seq, at, body, id=f"x{seq}"),
        response=Response(
            head_ns=at,
            end_ns=at + 10**8,
            status=200,
            headers=(("content-type", "application/json"),),
            body=usage,
            body_bytes=len(usage),
        ),
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Sixty requests within 0.6 s."""
    with TraceWriter(
        tmp_path / "t.msgpack",
        TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1"),
    ) as writer:
        for seq in range(60):
            writer.exchange(exchange(seq))
    return tmp_path / "t.msgpack"


def arms(url: str, *names: str) -> list[str]:
    return [word for name in names for word in ("--arm", f"name={name},base_url={url}")]


def test_an_experiment_ends_with_a_verdict_and_its_reports(
    tbench: Callable[..., Done], simulator: Server, trace: Path
) -> None:
    done = tbench(
        "ab",
        trace,
        *arms(simulator.url, "A", "B"),
        "--repeats",
        3,
        *PACED,
        *WIDE,
        "-o",
        "x",
        "--json",
    )
    found = json.loads(done.out)
    runs = [(run["round"], run["arm"]) for run in found["runs"]]

    assert (done.code, found["verdict"]) in {(0, "PASS"), (4, "INVALID")}, done.err
    assert [arm["name"] for arm in found["arms"]] == ["A", "B"]
    assert sorted(runs) == [(n, arm) for n in (1, 2, 3) for arm in "AB"]
    assert [n for n, _ in runs] == sorted(n for n, _ in runs), "in rounds"
    assert all(run["completed"] == 60 for run in found["runs"])
    assert [(one["metric"], one["runs"]) for one in found["variance"]] == [("ttft", 6)]
    assert found["variance"][0]["run_sd"] > 0
    assert json.loads((trace.parent / "x" / "report.json").read_text()) == found
    for name in ("report.html", "report.md"):
        assert found["verdict"] in (trace.parent / "x" / name).read_text()
    assert 'failures="0"' in (trace.parent / "x" / "junit.xml").read_text()

    if (
        done.code == 0
    ):  # what cannot be written (here a folder is in its place) takes no verdict away
        (trace.parent / "x" / "report.html").unlink()
        (trace.parent / "x" / "report.html").mkdir()
        again = tbench("ab", "-o", "x", "--json")
        assert again.code == 4, "no bad usage: everything was sent"
        assert json.loads(again.out)["verdict"] == "PASS"


def test_no_run_finds_the_prompts_of_an_earlier_one_in_the_cache(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path
) -> None:
    """The server says how many prompt tokens it had: who is first in a run has none of them, nobody after it.

    A run that is redone, as a busy machine made it INVALID, is an earlier one as well.
    """
    cached: dict[str, list[int]] = {}
    for mode in ("structure", "as-is"):
        url = serve("serve", "--port", "0").url
        tbench(
            "ab", trace, *arms(url, "A", "B"), "--repeats", 1, *PACED, *WIDE, "--cache", mode, "-o", mode
        )  # fmt: skip
        runs = sorted(
            (read_run(path) for path in (trace.parent / mode).rglob("*.run")),
            key=lambda run: run.header["wall_ns"],
        )
        cached[mode] = [int(run.columns["cached_tokens"].min()) for run in runs]

    assert len(cached["structure"]) >= 2
    assert set(cached["structure"]) == {0}
    assert cached["as-is"][0] == 0
    assert all(tokens > 100 for tokens in cached["as-is"][1:])


def test_a_duet_sends_each_request_to_both_arms_at_once(
    tbench: Callable[..., Done], simulator: Server, trace: Path
) -> None:
    done = tbench(
        "ab", trace, *arms(simulator.url, "A", "B"), "--repeats", 1, "--schedule", "duet",
        "--warmup", "none", "--redo-invalid", 0, *WIDE, "-o", "d",
    )  # fmt: skip
    # Set aside where a busy machine made it INVALID: what was sent is the same.
    first, second = (read_run(next((trace.parent / "d").rglob(f"{arm}.1.run*"))) for arm in "AB")

    assert done.code in {3, 4}, done.err
    assert len(first) == len(second) == 60
    assert (first.columns["due"] == second.columns["due"]).all()


def test_what_was_interrupted_goes_on(tbench: Callable[..., Done], trace: Path) -> None:
    """Ctrl-C in the second run: the first stays, the second is set aside and made again."""
    folder, stopped = trace.parent / "i", threading.Event()

    def second() -> bool:
        return len(list(folder.glob("*.run"))) == 1 and any(folder.glob("*.part"))

    with stalling(lambda: second() and not stopped.is_set()) as server:
        words = [
            "ab", str(trace), *arms(server.url, "A", "B"), "--repeats", "1", "--concurrency", "1",
            "--warmup", "none", "--requests", "20", *WIDE, "-o", "i", "--json",
        ]  # fmt: skip
        with _begun(words, trace.parent) as process:
            assert process.stderr and process.stdout
            until(lambda: process.poll() is not None or second())
            process.send_signal(signal.SIGINT)
            said, told = process.stderr.read(), json.loads(process.stdout.read())
        stopped.set()
        assert process.returncode == 130, said
        kept = next(folder.glob("*.run")).read_bytes()
        done = tbench("ab", "-o", "i", "--json")

    assert process.returncode == 130
    assert (told["verdict"], told["ended_by"], told["missing"]) == ("INCONCLUSIVE", "interrupt", 1)
    assert [run["completed"] for run in told["runs"]] == [20]
    assert [run["ended"] for run in told["set_aside"]] == ["interrupt"]
    assert "1 replay still to be made; go on with: tbench ab -o i" in said
    assert len(list((folder / "set-aside").iterdir())) == 1
    assert done.code == 3, done.err
    assert len(json.loads(done.out)["runs"]) == 2
    assert kept in {path.read_bytes() for path in folder.glob("*.run")}, "it was not made again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_pause_between_two_runs_says_how_to_go_on(
    simulator: Server, trace: Path, number: int
) -> None:
    words = [
        "ab", str(trace), *arms(simulator.url, "A", "B"), "--repeats", "1", "--concurrency", "8",
        "--warmup", "none", *WIDE, "--pause", "300", "-o", "i",
    ]  # fmt: skip
    with _begun(words, trace.parent) as process:
        assert process.stderr
        plan = trace.parent / "i/plan.json"
        until(
            lambda: process.poll() is not None or (plan.exists() and '"done"' in plan.read_text())
        )
        process.send_signal(number)
        said = process.stderr.read()

    assert process.returncode == 130, said
    assert "1 replay still to be made; go on with: tbench ab -o i" in said


def _begun(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tbench", *words],
        cwd=folder,
        env=interruptible(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_no_credential_of_an_arm_reaches_a_file(
    tbench: Callable[..., Done], simulator: Server, trace: Path
) -> None:
    """Neither an arm's own, nor that of the other arm in its run's command line."""
    secrets = ("opaque-value-of-a-header-1", "tgp_v1_abcdefghijklmnop")
    tbench(
        "ab", trace, "--arm", f'name=A,base_url={simulator.url},header.X-Team={secrets[0]},set.user="u"',
        "--arm", f"name=B,base_url={simulator.url},header.X-Key={secrets[1]},set.max_tokens=3",
        "--repeats", 1, *PACED, *WIDE, "-o", "s",
    )  # fmt: skip
    files = [path for path in (trace.parent / "s").rglob("*") if path.is_file()]
    header = read_run(trace.parent / "s" / "A.1.run").header

    assert len(files) >= 7
    assert not [
        (path, secret)
        for path in files
        for secret in secrets
        if secret.encode() in path.read_bytes()
    ]
    assert not any(secret in repr(header) for secret in secrets), "compressed or not"
    assert "set.max_tokens=3" in repr(header["argv"])


def test_a_finished_experiment_is_judged_again_without_a_request(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path
) -> None:
    server = serve("serve", "--port", "0")
    words = [
        "ab", trace, *arms(server.url, "A", "B"), "--repeats", 1, *PACED, *WIDE, "-o", "f", "--json",
    ]  # fmt: skip
    first = tbench(*words)
    server.stop()
    again = tbench(*words)
    trace.unlink()
    header = TraceHeader(wall_ns=10**18, mono_ns=0, upstream="http://127.0.0.1:1")
    with TraceWriter(trace, header) as writer:
        writer.exchange(exchange(1))
    other = tbench(*words)

    assert again.code == first.code == 3, again.err
    assert json.loads(again.out) == json.loads(first.out)
    assert other.code == 2
    assert "not the trace that the runs in f were made of" in other.err


def test_a_server_that_is_not_there_ends_it_at_once(
    tbench: Callable[..., Done], trace: Path
) -> None:
    done = tbench("ab", trace, *arms("http://127.0.0.1:9", "A", "B"), *PACED, "-o", "n")

    assert done.code == 5
    assert done.err.count("cannot connect") == 1
    assert len(list((trace.parent / "n" / "set-aside").iterdir())) == 1


def test_a_run_without_an_answer_does_not_count(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path
) -> None:
    """A server that fails every request: the experiment ends, and the run is made again later."""
    url = serve("serve", "--port", 0, "--fault", "500=1").url
    done = tbench("ab", trace, *arms(url, "A", "B"), *PACED, *WIDE, "-o", "e")
    (entry,) = json.loads((trace.parent / "e" / "plan.json").read_text())["runs"]

    assert done.code == 5, done.err
    assert entry["ended"] == "errors"
    assert not list((trace.parent / "e").glob("*.run"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a trace is missing"),
        (["t.msgpack"], "an experiment needs two arms or more"),
        (["t.msgpack", "--arm", "A"], "--arm: 'A' is not understood"),
        (["t.msgpack", "--arm", "name=A", "--arm", "name=B", "--gate", "ttft"], "--gate ttft"),
        (
            ["t.msgpack", "--arm", "name=A,api_key_env=NONE_SUCH", "--arm", "name=B"],
            "NONE_SUCH is not set",
        ),
        (["t.msgpack", "--arm", "name=A", "--arm", "name=B", "--slo", "x"], "--slo x"),
        (
            ["t.msgpack", "--arm", "name=A", "--arm", "name=B", "--trend", "--schedule", "abba"],
            "--trend needs an order of runs that chance drew",
        ),
        (
            ["t.msgpack", "--arm", "name=A", "--arm", "name=B", "--max-cost", "0.0001"],
            "--max-cost 0.0001: 10 runs still to be made may need",
        ),
    ],
)
def test_bad_words_end_before_anything_is_sent(
    tbench: Callable[..., Done], trace: Path, words: list[str], said: str
) -> None:
    done = tbench("ab", *words, "-o", "w")

    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (trace.parent / "w" / "plan.json").exists()


def test_a_dry_run_adds_up_the_whole_plan(tbench: Callable[..., Done], trace: Path) -> None:
    done = tbench(
        "ab",
        trace,
        *arms("http://127.0.0.1:9", "A", "B", "C"),
        "--repeats",
        4,
        "--dry-run",
        "--json",
    )
    found = json.loads(done.out)

    assert done.code == 0, done.err
    assert (found["runs"], found["requests"]) == (12, 720)
    assert found["prompt_tokens"] == 12 * 60 * 300
    assert [len(one["arms"]) for one in found["order"]] == [1] * 12
    assert list(trace.parent.iterdir()) == [trace]


@pytest.mark.parametrize(
    ("uncounted", "told"),
    [
        (0, "tokens 108,000 prompt"),
        (60, "tokens at least 108,000 prompt"),
        (360, "tokens unknown: the trace names none"),
    ],
)
def test_the_sum_of_a_dry_run_knows_tokens_that_nobody_counted(
    trace: Path, uncounted: int, told: str
) -> None:
    """As each arm above it does: 0 tokens would be a figure."""
    tables = [{"name": name, "base_url": "http://127.0.0.1:9"} for name in "AB"]
    plan = experiment({"trace": str(trace), "arm": tables, "repeats": 3, "margin": "5%"})
    seen = outlook(plan, plan.slots)

    assert any(told in line for line in outlook_text(plan, replace(seen, uncounted=uncounted)))


@pytest.mark.parametrize(("loop", "times"), [({"speed": 2.0}, 1), ({"concurrency": 4}, 2)])
def test_arms_of_a_duet_take_their_turns_in_a_closed_loop(
    trace: Path, loop: dict[str, float], times: int
) -> None:
    """They share its places: the dry run reckons with the sum of what each takes alone."""
    tables = [{"name": name, "base_url": "http://127.0.0.1:9"} for name in "AB"]
    plan = experiment(
        {"trace": str(trace), "arm": tables, "schedule": "duet", "repeats": 3, **loop}
    )
    seen = outlook(plan, plan.slots)

    alone = max(estimate.duration_s for _, estimate in seen.arms)
    assert seen.duration_s == pytest.approx(3 * times * alone)


def test_the_same_from_a_program(
    simulator: Server, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "test-key-0123456789")
    made: list[str] = []
    tables = [{"name": name, "base_url": simulator.url} for name in "AB"]
    found = tbench_api.ab(
        trace,
        arms=tables,
        out=trace.parent / "p",
        repeats=3,
        concurrency=8,
        warmup="none",
        redo_invalid=9,
        gate=["errors:20pp"],
        ended=lambda one: made.append(one.arm.name),
    )

    assert set(made) == {"A", "B"}
    assert min(made.count("A"), made.count("B")) >= 3, "and what a busy machine read late, again"
    assert found.verdict is tbench_api.Verdict.PASS
    assert [row.comparison.candidate for row in found.rows] == [0.0]


def test_a_monitored_plan_stops_when_it_is_sure(
    tbench: Callable[..., Done], serve: Callable[..., Server], simulator: Server, trace: Path
) -> None:
    """A second arm that is several times slower fails before the last look; judging again changes nothing.

    Mostly at the first; on a busy machine the runs may differ too much among each other for that.
    """
    slow = serve("serve", "--port", "0", "--profile", "slow").url
    words = [
        "ab", trace, *arms(simulator.url, "A"), *arms(slow, "B"), "--repeats", 5, "--monitor", *PACED,
        "--gate", "e2e:p50:5%", "-o", "m", "--json",
    ]  # fmt: skip
    first, again = tbench(*words), tbench(*words)
    found = json.loads(first.out)

    assert (first.code, again.code) == (1, 1), first.err
    rounds = len(found["runs"]) // 2
    assert rounds in {3, 4}, "of five"
    assert found["comparisons"][0]["ci"] == [None, None]
    look = f"MONITORED: look {rounds - 2} of 3"
    assert any(warning.startswith(look) for warning in found["warnings"])
    assert json.loads(again.out) == found


def test_a_plan_that_will_not_decide_says_so_before_it_begins(
    tbench: Callable[..., Done], trace: Path
) -> None:
    done = tbench(
        "ab", trace, *arms("http://127.0.0.1:9", "A", "B"), "--repeats", 3, "--margin", "5%", "--dry-run"
    )  # fmt: skip

    assert "3 + 3 runs with 3 % between runs pass a 5 % margin in about" in done.out


def test_a_trace_too_short_for_every_gate_is_said_before_it_begins(
    tbench: Callable[..., Done], trace: Path
) -> None:
    """A median needs 40 requests in a run; with `--loop` nobody knows beforehand."""
    words = ["ab", trace, *arms("http://127.0.0.1:9", "A", "B"), "--margin", "5%", "--dry-run"]
    told = "no gate on a quantile can be tested: a run has 30 requests at most"

    assert told in tbench(*words, "--requests", 30).out
    assert "no gate on a quantile" not in tbench(*words, "--requests", 40).out
    assert "no gate on a quantile" not in tbench(*words, "--requests", 30, "--loop", 2).out


def test_a_plan_may_declare_goodput_and_a_trend(
    tbench: Callable[..., Done], simulator: Server, trace: Path
) -> None:
    """Both are kept with the plan, the text says so, and CI gets its files."""
    said = (*PACED, "--gate", "goodput>=50%", "--slo", "ttft<60s", "--trend", "--repeats", 3)
    done = tbench("ab", trace, *arms(simulator.url, "A", "B"), *said, "-o", "x")
    kept = {
        path.name: path.read_text()
        for path in (trace.parent / "x").iterdir()
        if path.suffix in TEXTS
    }

    assert done.ended, done.err
    assert "declared in the plan, before the runs" in " ".join(done.out.split())
    assert "ttft<60s" in kept["plan.json"]
    assert 'name="goodput&gt;=50%"' in kept["junit.xml"]
    assert kept["report.md"].startswith(f"### tbench: {'INVALID' if done.code else 'PASS'}")


FILES = ("report.html", "report.json", "report.md", "junit.xml")


@pytest.mark.parametrize("fault", ["429=0.5", "429=0.05", "error=1", "cut=1"])
def test_an_arm_that_fails_requests_never_passes(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path, fault: str
) -> None:
    """What it answers is as fast as ever. All files are written, JUnit's with a failure or an error."""
    good = serve("serve", "--port", 0).url
    bad = serve("serve", "--port", 0, "--fault", fault).url
    done = tbench(
        "ab", trace, *arms(good, "A"), *arms(bad, "B"), "--repeats", 3, *PACED,
        "--margin", "900%", "-o", "r",
    )  # fmt: skip
    folder = trace.parent / "r"
    suite = ET.parse(folder / "junit.xml").getroot()

    assert done.code in (1, 3), done.out
    assert all((folder / name).exists() for name in FILES)
    assert int(suite.get("failures", 0)) + int(suite.get("errors", 0)) > 0
    assert "FAILURES_ROSE" in (folder / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("errors", "judged"),
    [
        ({"cut": 9}, True),
        ({"stream_error": 9, "http_503": 1}, True),
        ({"connect_error": 9}, False),
        ({"connect_error": 9, "cut": 2}, False),
    ],
)
def test_an_arm_that_died_before_its_first_answer_is_not_judged(
    errors: dict[str, int], judged: bool
) -> None:
    """What was in flight then is cut; where somebody still listens, that is how the arm answers."""
    assert answered({"completed": 0, "errors": errors}) is judged


def test_too_few_successes_for_any_gate_decide_nothing(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path
) -> None:
    """2 would say that nothing was sent. Each gate has its row, and what it needs."""
    url = serve("serve", "--port", 0, "--fault", "429=0.6").url
    done = tbench("ab", trace, *arms(url, "A", "B"), "--repeats", 3, *PACED, "-o", "f")
    found = json.loads((trace.parent / "f" / "report.json").read_text())
    rows = {row["gate"]: row for row in found["comparisons"]}

    assert done.code == 3, done.err
    assert all((trace.parent / "f" / name).exists() for name in FILES)
    assert rows["ttft:p50:5%"]["verdict"] == "SKIPPED"
    assert rows["ttft:p50:5%"]["reason"].endswith("requests in a run, needs 40")


def test_a_slow_arm_fails_beside_whatever_the_client_does(
    tbench: Callable[..., Done], serve: Callable[..., Server], trace: Path
) -> None:
    """An open loop on this machine as it is: client lag bounds what it explains and forbids nothing.

    Both wait so long that what a busy machine adds to a run is a small part of either.
    """
    url = serve("serve", "--port", 0).url
    waits = ("A,header.x-sim-ttft-ms=300", "B,header.x-sim-ttft-ms=1500")
    done = tbench(
        "ab", trace, *(word for one in waits for word in ("--arm", f"base_url={url},name={one}")),
        "--repeats", 3, "--warmup", "none", "--margin", "5%", "--redo-invalid", 9, "-o", "s",
    )  # fmt: skip

    assert done.code == 1, done
