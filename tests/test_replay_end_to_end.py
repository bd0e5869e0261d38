"""`tbench replay` as a user runs it, against the simulator: what the server saw is what the run says."""

import base64
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tbench.capture.container_reader import open_container
from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.api import replay
from tbench.replay.cost import Price
from tbench.replay.runfile import Run, read_run
from tbench.replay.totals import identity, numbers
from tests.conftest import PATIENCE_S, interruptible, until
from tests.recorded import chat_request

CHAT = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
OTHER = "openai/gpt-oss-20b"
VISION = "Qwen/Qwen2.5-VL-72B-Instruct"
EMBED = "intfloat/multilingual-e5-large-instruct"
RERANK = "Salesforce/Llama-Rank-V1"
KEY = "test-key-0123456789"
PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d494844520000000100000001080600000 01f15c4890000000d49444154789c63"
        "000100000500010d0a2db40000000049454e44ae426082".replace(" ", "")
    )
).decode()

Asked = tuple[str, dict[str, Any]]


def chat(number: int, **fields: Any) -> Asked:
    body = {
        "model": CHAT,
        "messages": [{"role": "user", "content": f"Say something about the number {number}."}],
        "max_tokens": 8,
        "stream": True,
        **fields,
    }
    return "/v1/chat/completions", body


def write_trace(path: Path, asked: list[Asked], gap_s: float = 0.02, **fields: Any) -> Path:
    """A trace of these requests, evenly spaced, each answered after half a second."""
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0, upstream=None)) as writer:
        for seq, (route, payload) in enumerate(asked):
            body = json.dumps(payload).encode()
            arrive = round(seq * gap_s * 1e9)
            known = {"scheme": "https", "host": "api.together.xyz", "path": route, **fields}
            usage = b'{"usage":{"prompt_tokens":11,"completion_tokens":8}}'
            response = Response(
                head_ns=arrive,
                end_ns=arrive + 500_000_000,
                status=200,
                headers=(("content-type", "application/json"),),
                body=usage,
                body_bytes=len(usage),
            )
            request = chat_request(seq, arrive, body, **known)
            writer.exchange(Exchange(request=request, response=response))
    return path


def attempts(url: str) -> list[dict[str, Any]]:
    """What the simulator saw."""
    with urllib.request.urlopen(f"{url}/_truth", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    if text.startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines()]


def truth(url: str) -> dict[str, dict[str, Any]]:
    """The same by x-request-id."""
    return {row["request_id"]: row for row in attempts(url)}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)


@pytest.fixture
def server(simulator: Any) -> str:
    """The session's simulator, with its memory of earlier tests cleared."""
    with urllib.request.urlopen(f"{simulator.url}/_reset", timeout=PATIENCE_S):
        return str(simulator.url)


def test_every_kind_of_request_comes_back_with_the_servers_counts(
    server: str, tmp_path: Path
) -> None:
    """Streams, whole answers, completions, embeddings, reranking and pictures, token by token."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    asked: list[Asked] = [
        chat(1),
        chat(2, stream=False),
        ("/v1/completions", {"model": CHAT, "prompt": "Once", "max_tokens": 5, "stream": True}),
        ("/v1/completions", {"model": CHAT, "prompt": "Once", "max_tokens": 5}),
        ("/v1/embeddings", {"model": EMBED, "input": ["a", "b"]}),
        ("/v1/rerank", {"model": RERANK, "query": "a", "documents": ["b", "c"]}),
        chat(3, model=VISION, messages=[{"role": "user", "content": [picture]}]),
    ]
    trace = write_trace(tmp_path / "t.msgpack", asked)
    run = replay(trace, base_url=server, out=tmp_path / "a.run", warmup="none")
    seen = truth(server)
    columns = run.columns

    assert columns["outcome"].tolist() == ["ok"] * 7, columns["error"].tolist()
    assert columns["endpoint"].tolist() == [
        "chat", "chat", "completions", "completions", "embeddings", "rerank", "chat",
    ]  # fmt: skip
    for row, name in enumerate(columns["id"].tolist()):
        assert seen[name]["status"] == 200
        for count in ("prompt_tokens", "output_tokens"):
            if columns[count][row] >= 0 and seen[name][count] is not None:
                assert columns[count][row] == seen[name][count]
    assert (columns["output_tokens"][columns["endpoint"] == "chat"] > 0).all()
    _is_the_servers(numbers(run), list(seen.values()))
    streams = columns["stream"]
    assert (columns["token_events"][streams] > 1).all()
    assert np.isnan(columns["first_token"][~streams]).all()
    # Who sent them has noted their arrivals; who comes later reads them in the trace.
    assert run.arrivals is not None
    assert run.fidelity.json == read_run(run.path).fidelity.json


def _is_the_servers(found: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    """What it counted and told, over no less than from its first arrival to its last.

    It tells no usage of embeddings, as Together's own does not.
    """
    arrivals = [row["arrival_wall_ns"] for row in seen]  # it notes an end when it runs again
    took = max(arrivals) - min(arrivals)
    over = found["throughput_over_s"]
    put_in, put_out = (
        sum(row[name] or 0 for row in seen if row["endpoint"] != "embeddings")
        for name in ("prompt_tokens", "output_tokens")
    )

    assert over >= took / 1e9
    assert found["requests_per_s"] * over == pytest.approx(len(seen))
    assert found["input_tokens_per_s"] * over == pytest.approx(put_in)
    assert found["output_tokens_per_s"] * over == pytest.approx(put_out)
    assert found["without_token_counts"] == {"input": 1, "output": 0}


def test_the_stamps_agree_with_the_servers(server: str, tmp_path: Path) -> None:
    """Arrival lies after our sent, the server's first write before our first token: one clock, one order."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(10)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run")
    seen = truth(server)

    for row, name in enumerate(run.columns["id"].tolist()):
        assert run.columns["sent_wall_ns"][row] <= seen[name]["arrival_wall_ns"]
        assert seen[name]["first_wall_ns"] <= run.columns["first_wall_ns"][row]


def test_the_numbers_are_those_of_the_contract(
    server: str, tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """`--json` prints exactly the named keys, and the identity holds."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(6)])
    done = tbench(
        "replay", "t.msgpack", "--speed", 2, "--base-url", f"{server}/v1", "-o", "a.run", "--json"
    )
    found = json.loads(done.out)

    wanted = (
        "run planned completed failed cancelled lost_in_flight never_sent skipped reconnected refused "
        "rate_limits turns hit_rates hosts portability unchanged masked duration_s "
        "throughput_over_s requests_per_s output_tokens_per_s input_tokens_per_s total_tokens_per_s "
        "without_token_counts drain "
        "ttft_s tpot_s itl_s e2e_s lag_s in_flight uncertain_first_tokens clock valid invalid_because errors "
        "pacing fidelity"
    )
    assert list(found) == wanted.split()
    assert set(found["ttft_s"]) == {"mean", "p50", "p90", "p95", "p99", "max"}
    assert set(found["in_flight"]) == {"mean", "max"}
    assert found["planned"] == found["completed"] == 6
    assert found["clock"] == ("kernel" if sys.platform == "linux" else "user")
    assert done.code == (0 if found["valid"] else 4), done.err


@pytest.mark.parametrize(("sender", "clock"), [("engine", "kernel"), ("httpx", "user")])
def test_the_sender_can_be_chosen_and_the_run_says_which(
    sender: Any, clock: str, server: str, tmp_path: Path
) -> None:
    """Either way the answers are the same; the run says who sent and what stamped."""
    if sender == "engine" and sys.platform != "linux":
        pytest.skip("the engine runs on Linux")
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(4)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run", sender=sender)

    assert numbers(run)["completed"] == 4
    assert run.header["target"]["sender"] == sender
    assert run.header["clock"] == run.totals["clock"] == numbers(run)["clock"] == clock
    assert 0 <= run.totals["coalesced_share"] < 1
    assert run.columns["output_tokens"].tolist() == [8] * 4


def test_concurrency_is_never_exceeded_at_the_server(server: str, tmp_path: Path) -> None:
    """Four in flight: the server sees four at most, and the run says the same."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i, max_tokens=12) for i in range(24)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run", concurrency=4)
    with urllib.request.urlopen(f"{server}/_stats", timeout=PATIENCE_S) as answer:
        stats = json.load(answer)

    assert stats["max_in_flight"] == 4
    assert numbers(run)["in_flight"]["max"] == 4
    assert np.isnan(run.columns["due"]).all()


def test_a_recorded_profile_is_followed_to_its_end(server: str, tmp_path: Path) -> None:
    """Four requests of half a second, one after the other, are one in flight for 2 s; times two, two."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(4)], gap_s=0.5)
    run = replay(trace, base_url=server, out=tmp_path / "a.run", concurrency_scale=2)

    assert run.totals["most_in_flight"] == 2
    assert run.totals["planned"] == len(run) > 4
    assert run.columns["cycle"].max() > 0
    assert run.columns["sent"].max() < 2.0


def test_until_the_trace_ends_the_profile_is_repeated(server: str, tmp_path: Path) -> None:
    """Eight requests answered more slowly than recorded outlast their profile of two seconds: all leave."""
    asked = [chat(i, max_tokens=90) for i in range(8)]
    trace = write_trace(tmp_path / "t.msgpack", asked, gap_s=0.2)
    options: dict[str, Any] = {"base_url": server, "concurrency_scale": 0.4}
    whole = replay(trace, out=tmp_path / "a.run", until="trace", **options)
    short = replay(trace, out=tmp_path / "b.run", until="profile", **options)

    assert whole.totals["planned"] == len(whole) == 8
    assert whole.columns["cycle"].max() == 0
    assert whole.columns["sent"].max() > 2.0
    assert len(short) < 8
    assert short.columns["sent"].max() < 2.0


def test_rounds_have_request_ids_of_their_own(server: str, tmp_path: Path) -> None:
    """--loop sends each exchange again under another id; the columns keep exchange and round."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(3)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run", loop=2)

    assert len(truth(server)) == 6
    assert run.columns["cycle"].tolist() == [0, 0, 0, 1, 1, 1]
    assert run.columns["id"].tolist()[:3] == run.columns["id"].tolist()[3:]


def test_no_byte_of_a_key_is_in_the_file(
    server: str, tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """Neither the environment's nor a header's value; and only the owner may read it."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(3)])
    done = tbench(
        "replay", "t.msgpack", "--base-url", server, "-o", "a.run", "--constant", 50,
        "--header", "x-secret: hush-hush-9876",
    )  # fmt: skip
    assert done.ended, done.err
    container = open_container(tmp_path / "a.run")
    everything = repr(container.header) + repr(container.index) + repr(list(container.records()))

    for secret in (KEY, "hush-hush-9876"):
        assert secret not in everything + done.out + done.err
        assert secret.encode() not in (tmp_path / "a.run").read_bytes()
    assert "x-secret" in container.header["target"]["headers"]
    assert container.header["target"]["api_key_env"] == "TOGETHER_API_KEY"
    assert stat.S_IMODE((tmp_path / "a.run").stat().st_mode) == 0o600


def test_rate_limits_are_outcomes_and_nothing_is_retried(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    """Every 429 is one failed sample; the server saw each request once."""
    server = serve("serve", "--port", 0, "--profile", "fast", "--fault", "429=0.5").url
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(20)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run", constant=100)
    found, seen = numbers(run), truth(server)
    refused = sum(row["status"] == 429 for row in seen.values())

    assert len(seen) == 20
    assert found["completed"] + found["failed"] == 20
    assert found["errors"] == {"http_429": refused}
    assert refused > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--api-key-env", "BAD_KEY"), "BAD_KEY"),
        (("--model", "no/such-model"), "no/such-model"),
        (("--base-url", "http://127.0.0.1:1"), "cannot connect"),
        (
            ("--http2",),
            "--http2 sends HTTP/2 without asking: leave it out where the server has none",
        ),
    ],
)
def test_nothing_succeeded(
    server: str, tmp_path: Path, tbench: Callable[..., Any], flags: tuple[str, ...], said: str
) -> None:
    """Exit 5 and one line that names what to change; the run is kept."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(3)])
    done = tbench(
        "replay", "t.msgpack", "--base-url", server, "-o", "a.run", *flags, BAD_KEY="bad-0123456789"
    )

    assert done.code == 5
    assert said in done.err.splitlines()[-1]
    assert "bad-0123456789" not in done.err
    assert len(read_run(tmp_path / "a.run")) == 3


def test_a_hopeless_target_is_left_early(tmp_path: Path, tbench: Callable[..., Any]) -> None:
    """After some twenty refusals the rest of a long trace is not sent."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(300)])
    done = tbench(
        "replay", "t.msgpack", "--base-url", "http://127.0.0.1:1", "-o", "a.run", "--json"
    )
    found = json.loads(done.out)

    assert done.code == 5
    assert found["planned"] == 300
    assert found["never_sent"] > 200


def replaying(
    tmp_path: Path, *flags: str, stderr: int = subprocess.PIPE, written: int = 4000
) -> subprocess.Popen[str]:
    """A replay process that has written so many bytes."""
    whole = [sys.executable, "-m", "tbench", "replay", "t.msgpack", "-o", "a.run", *flags]
    process = subprocess.Popen(
        whole,
        cwd=tmp_path,
        env=interruptible(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )
    part = tmp_path / "a.run.part"
    until(lambda: process.poll() is not None or (part.exists() and part.stat().st_size > written))
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP], [signal.SIGTERM, signal.SIGINT]],
)
def test_an_interrupt_keeps_what_is_there(
    server: str, tmp_path: Path, numbers: list[signal.Signals]
) -> None:
    """Exit 130; what was in flight is cancelled, what was not due never sent, and all adds up.

    Two signals of one moment are one: `timeout` sends its signal to the process and to its group.
    """
    write_trace(tmp_path / "t.msgpack", [chat(i, max_tokens=200) for i in range(900)], gap_s=0.05)
    process = replaying(tmp_path, "--base-url", server)
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "a.run")
    whole = identity(run)

    assert process.returncode == 130, err
    assert f"{whole.never_sent} never sent" in out
    assert whole.planned == 900
    assert whole.lost_in_flight == 0
    assert whole.never_sent > 0
    assert whole.cancelled == int((run.columns["outcome"] == Outcome.CANCELLED.value).sum())


def test_a_terminal_that_closes_ends_no_replay(server: str, tmp_path: Path) -> None:
    """What it cannot show any more is not shown; every request is sent and kept."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(60)], gap_s=0.025)
    ours, theirs = pty.openpty()
    process = replaying(tmp_path, "--base-url", server, stderr=theirs, written=0)
    os.close(theirs)
    os.close(ours)
    process.communicate(timeout=PATIENCE_S)

    assert process.returncode in {0, 4}, "4: a busy machine"
    assert identity(read_run(tmp_path / "a.run")).completed == 60


def test_a_killed_replay_can_be_read(server: str, tmp_path: Path) -> None:
    """After kill -9 the .part file has the samples and an identity that adds up."""
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(900)], gap_s=0.02)
    process = replaying(tmp_path, "--base-url", server)
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    run = read_run(tmp_path / "a.run.part")

    assert not run.complete
    assert len(run) > 0
    assert identity(run).completed == int((run.columns["outcome"] == "ok").sum())


def test_the_run_says_where_it_comes_from(server: str, tmp_path: Path) -> None:
    """Trace, pacing in words, target, deadlines, versions and machine are in the header."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(3)])
    run: Run = replay(trace, base_url=server, out=tmp_path / "a.run", rate=100, timeout=33)
    header = run.header

    assert header["trace"]["capture_id"]
    assert header["pacing"]["open_loop"] is True
    assert "100 requests/s" in header["pacing"]["meaning"]
    assert header["target"]["base_url"] == server
    assert header["deadlines"]["total"] == 33
    assert header["host"]["cpus"] >= 1
    assert header["versions"]["tbench"]


def test_a_damaged_trace_is_replayed_as_far_as_it_goes_and_is_invalid(
    server: str, tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """What cannot be read cannot be sent: the run says how much, and ends with 4."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(k) for k in range(250)], gap_s=0.001)
    whole = bytearray(trace.read_bytes())
    whole[len(whole) // 3] ^= 1
    trace.write_bytes(whole)

    done = tbench(
        "replay", trace, "--base-url", server, "--concurrency", 8, "-o", "a.run", "--json"
    )

    found = json.loads(done.out)
    assert done.code == 4
    assert found["valid"] is False
    assert "(1 damaged block)" in found["invalid_because"]
    assert "tbench trace repair" in done.err
    assert 0 < found["planned"] < 250
    assert found["planned"] == found["completed"]


def test_the_trace_of_a_killed_capture_is_replayed_and_says_that_it_was_cut(
    server: str, tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """A missing tail is no damage, but it is not silent either."""
    trace = write_trace(tmp_path / "t.msgpack", [chat(k) for k in range(30)], gap_s=0.001)
    container = open_container(trace)
    assert container.rows
    last = container.rows[-1]
    trace.write_bytes(trace.read_bytes()[: last.offset + last.length])

    done = tbench("replay", trace, "--base-url", server, "--concurrency", 8, "-o", "a.run")

    assert done.ended, done.err
    assert "cut short" in done.out


def test_a_missing_key_is_one_line_and_leaves_nothing_in_the_way(
    serve: Callable[..., Any], tmp_path: Path, tbench: Callable[..., Any]
) -> None:
    """The first 401 ends the run, one line names the variable, and the same command works again."""
    guarded = serve("serve", "--port", 0, "--profile", "fast", "--api-key", KEY)
    write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(30)], gap_s=0.1)
    line = ("replay", "t.msgpack", "--base-url", guarded.url, "-o", "a.run")

    missing = tbench(*line, TOGETHER_API_KEY="")
    assert (missing.code, missing.out) == (5, "")
    assert (
        "TOGETHER_API_KEY is not set; export it or name another with --api-key-env" in missing.err
    )
    assert len(read_run(tmp_path / "a.run")) < 30

    refused = tbench(*line, TOGETHER_API_KEY="another-key-9876543210")
    assert (refused.code, refused.out) == (5, "")
    assert "refused the key in TOGETHER_API_KEY (" in refused.err
    assert len(read_run(tmp_path / "a.run")) < 30

    right = tbench(*line, TOGETHER_API_KEY=KEY)
    assert right.ended, right.err
    assert "30 requests" in right.out or "completed 30" in right.out
    assert tbench(*line, TOGETHER_API_KEY=KEY).code == 2, "what succeeded is never overwritten"


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 20, "workers": 2},
        {"constant": 1000, "sender": "httpx"},
    ],
)
def test_a_polite_replay_loses_nothing_to_a_rate_limit(
    serve: Callable[..., Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Each request is answered in the end; the refusals that it tells of are those that the server gave."""
    server = serve("serve", "--port", 0, "--profile", "fast", "--rate-limit", "100").url
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(30)])
    run = replay(trace, base_url=server, out=tmp_path / "a.run", polite=True, **options)
    found = numbers(run)
    statuses = Counter(row["status"] for row in attempts(server))

    assert found["completed"] == statuses[200] == 30
    assert found["refused"]["attempts"] == {"http_429": statuses[429]}
    assert int(run.columns["refusals"].sum()) == statuses[429] > 0
    assert found["refused"]["requests"] == (run.columns["refusals"] > 0).sum()
    assert found["refused"]["given_up"] == 0
    assert run.columns["waited"].sum() == pytest.approx(found["refused"]["waited_s"])
    assert found["rate_limits"]["requests"] == {"limit": 100, "remaining": 0}


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 8},
        {"constant": 2000, "workers": 2, "sender": "httpx"},
        {"concurrency": 8, "workers": 2, "polite": True},
    ],
)
def test_what_the_server_counted_never_costs_more_than_was_allowed(
    serve: Callable[..., Any], tmp_path: Path, options: dict[str, Any]
) -> None:
    """By its own tokens of all that reached it: it counts half as many again as were recorded."""
    limit = "--rate-limit" if "polite" in options else "--seed"
    server = serve("serve", "--port", 0, "--profile", "fast", limit, "100").url
    trace = write_trace(tmp_path / "t.msgpack", [chat(i) for i in range(60)])
    price, most = Price(3000, 2000), 3.0
    run = replay(
        trace, base_url=server, out=tmp_path / "a.run", model=OTHER, price={OTHER: price},
        max_cost=most, **options,
    )  # fmt: skip
    spent = sum(
        (row["prompt_tokens"] or 0) * 3e-3 + (row["output_tokens"] or 0) * 2e-3
        for row in attempts(server)
    )

    assert run.totals["ended_by"] == "max_cost"
    assert most / 2 < spent <= most
    assert run.totals["cost"]["usd"] == pytest.approx(spent)
