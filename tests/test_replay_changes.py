"""What a replay changes in requests, what it leaves as it was, which it sends, and where: each is said."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard

from tbench.capture.exchange import Exchange, Response
from tbench.capture.records import TraceHeader
from tbench.capture.redact import without_credentials
from tbench.capture.sessions import Sessions
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.closing import outlook
from tbench.replay.estimate import estimate
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import read_run
from tbench.replay.runner import recipe_of, steps
from tests.answering import Answering, answering, chat
from tests.conftest import Done
from tests.recorded import chat_request

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "gzip, zstd": lambda body: zstandard.compress(gzip.compress(body)),
}
CLOSED = ("--concurrency", "1")
"""A busy machine that sends late makes no difference here."""
ASKED = {"model": "old", "messages": [{"role": "user", "content": "Hi"}]}
CHAT = json.dumps(ASKED).encode()
EMBED = b'{"model":"embedder","input":["a"]}'
RERANK = b'{"model":"ranker","query":"q","documents":["a"]}'


def recorded(
    body: bytes, *, path: str = "chat/completions", host: str = "h", **headers: str
) -> Exchange:
    """One answered exchange; its place in the trace is given when it is written."""
    names = {"content-type": "application/json", **headers}
    request = chat_request(
        0,
        0,
        body,
        scheme="http",
        host=host,
        path=f"/v1/{path}",
        headers=tuple(((name.replace("_", "-"), value) for name, value in names.items())),
    )
    return Exchange(request=request, response=None)


def embedding(model: bytes = b"embedder") -> Exchange:
    return recorded(EMBED.replace(b"embedder", model), path="embeddings")


@pytest.fixture
def server() -> Iterator[Answering]:
    with answering(lambda _: chat()) as server:
        yield server


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write exchanges, 10 ms apart, as a trace; without `upstream` as a forward proxy does."""

    def write(*exchanges: Exchange, upstream: str | None = None) -> Path:
        path = tmp_path / "t.msgpack"
        with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0, upstream=upstream)) as writer:
            for seq, exchange in enumerate(exchanges):
                at = seq * 10_000_000
                request = exchange.request
                request.id, request.seq, request.arrive_ns = f"{seq:032x}", seq, at
                request.end_ns = at
                answer = Response(head_ns=at, end_ns=at + 5_000_000, status=200)
                writer.exchange(Exchange(request=request, response=answer))
        return path

    return write


def models(server: Answering) -> list[Any]:
    return [received.json.get("model") for received in server.received]


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("flags", [("--model", "new"), ("--map-model", "old=new")])
def test_a_compressed_request_asks_for_the_other_model(
    tbench: Callable[..., Done],
    write: Callable[..., Path],
    server: Answering,
    encoding: str,
    flags: tuple[str, str],
) -> None:
    """It goes out plain, with the length that it has then."""
    trace = write(recorded(PACK[encoding](CHAT), content_encoding=encoding))
    done = tbench("replay", trace, *CLOSED, "--base-url", server.url, *flags, "-o", "a.run")
    (received,) = server.received

    assert done.ended, done.err
    assert received.json == {**ASKED, "model": "new"}
    assert "content-encoding" not in received.headers
    assert "skipped     " not in done.out
    assert "unchanged" not in done.out


def test_a_compressed_request_that_is_not_changed_goes_as_recorded(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    body = gzip.compress(CHAT)
    trace = write(recorded(body, content_encoding="gzip"))
    tbench("replay", trace, *CLOSED, "--base-url", server.url, "-o", "a.run")
    (received,) = server.received
    run = read_run(trace.with_name("a.run"))

    assert received.body == body
    assert received.headers["content-encoding"] == "gzip"
    assert (run.columns["model"][0], run.columns["endpoint"][0]) == ("old", "chat")


@pytest.mark.parametrize("flag", [("--set", "max_tokens=7"), ("--cache", "cold", "--probe", "off")])
def test_fields_and_salts_reach_compressed_bodies(
    tbench: Callable[..., Done],
    write: Callable[..., Path],
    server: Answering,
    flag: tuple[str, ...],
) -> None:
    trace = write(recorded(gzip.compress(CHAT), content_encoding="gzip"))
    done = tbench("replay", trace, *CLOSED, "--base-url", server.url, *flag, "-o", "a.run")
    (received,) = server.received

    assert done.ended, done.err
    assert received.json != ASKED
    assert "no text for the salt" not in done.out


@pytest.mark.parametrize(("body", "encoding"), [(b"\x00\x01", "gzip"), (CHAT, "aws-chunked")])
def test_a_body_that_cannot_be_decoded_is_left_out_where_it_would_be_changed(
    tbench: Callable[..., Done],
    write: Callable[..., Path],
    server: Answering,
    body: bytes,
    encoding: str,
) -> None:
    """A comparison of two models would else hold requests to one model twice."""
    trace = write(recorded(body, content_encoding=encoding), recorded(CHAT))
    same = tbench("replay", trace, *CLOSED, "--base-url", server.url, "-o", "a.run")
    other = tbench(
        "replay", trace, *CLOSED, "--base-url", server.url, "--model", "new", "-o", "b.run"
    )
    look = tbench("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new", "--dry-run")

    assert [received.body for received in server.received[:2]] == [body, CHAT]
    assert [received.json["model"] for received in server.received[2:]] == ["new"]
    assert "skipped     1 encoding" in other.out
    assert "skipped     1 encoding" in look.out
    assert "left out" not in same.out


def test_bodies_that_are_no_json_are_counted(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    """They go as recorded, and one that names no model gets none."""
    nameless = b'{"messages":[]}'
    trace = write(recorded(b"model=old"), recorded(nameless), recorded(CHAT))
    flags = ("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new")
    done, look = tbench(*flags, "-o", "a.run"), tbench(*flags, "--dry-run")
    report = tbench("report", "a.run")

    assert [one.body for one in server.received[:2]] == [b"model=old", nameless]
    for shown in (done, look, report):
        assert "1 request: not a JSON object, sent as recorded" in shown.out
        assert "1 request: no model named, sent without one" in shown.out


def test_trace_head_reads_compressed_requests(
    tbench: Callable[..., Done], write: Callable[..., Path]
) -> None:
    body = gzip.compress(CHAT)
    trace = write(recorded(body, content_encoding="gzip"), recorded(CHAT))
    rows = json.loads(tbench("trace", "head", trace, "--json").out)["exchanges"]

    assert [row["model"] for row in rows] == ["old", "old"]
    assert json.loads(tbench("trace", "info", trace, "--json").out)["models"] == {"old": 2}


def test_compressed_turns_are_one_session() -> None:
    """A later turn holds the earlier one's messages, whatever they were packed by."""
    first = recorded(gzip.compress(CHAT), content_encoding="gzip").request
    more = [*ASKED["messages"], {"role": "assistant", "content": "Hello"}, *ASKED["messages"]]
    body = json.dumps({**ASKED, "messages": more}).encode()
    second = recorded(zstandard.compress(body), content_encoding="zstd").request
    first.id, second.id = "a", "b"
    sessions = Sessions()

    assert sessions.assign(first).turn == 0
    assert sessions.assign(second).parent == "a"


def test_a_chat_model_is_not_asked_for_embeddings(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    """Not even where they come first; the run, its report and the dry run say so."""
    trace = write(embedding(), recorded(CHAT), embedding())
    flags = ("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new")
    done, look = tbench(*flags, "-o", "a.run", "--json"), tbench(*flags, "--dry-run")
    report = tbench("report", "a.run")

    assert sorted(models(server)) == ["embedder", "embedder", "new"]
    assert json.loads(done.out)["unchanged"] == {"embeddings": 2}
    for shown in (look, report):
        assert "2 requests: embeddings, which --model is not for: use --map-model" in shown.out


def hidden(**members: Any) -> Exchange:
    """As a capture records a request with credentials for others in these members."""
    clean = without_credentials(json.dumps(ASKED | members).encode())
    assert clean.masked
    exchange = recorded(clean.body)
    exchange.request.extra = {"body_masked": clean.masked}
    return exchange


def test_requests_with_masked_credentials_are_counted(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    """By member, with the cure, in the look at the trace, the dry run, the run and its report."""
    tool = {
        "type": "mcp",
        "server_url": "https://x/?token=t0ken-t0ken",
        "authorization": "mcp-SECRET-1",
    }
    schema = {"properties": {"password": {"default": "********"}}}
    trace = write(
        hidden(tools=[tool]), hidden(tools=[tool], api_key="key-SECRET-1", x=schema), recorded(CHAT)
    )
    flags = ("replay", trace, *CLOSED, "--base-url", server.url)
    info, look = tbench("trace", "info", trace), tbench(*flags, "--dry-run")
    done = tbench(*flags, "-o", "a.run", "--json")
    report = tbench("report", "a.run")

    assert "masked        2 requests hold asterisks" in info.out
    assert json.loads(done.out)["masked"] == {"tools": 2, "api_key": 1}
    for shown in (look, report):
        assert "2 requests: asterisks for a credential in tools" in shown.out
        assert "--set 'api_key=JSON'" in shown.out


def test_a_member_that_is_put_back_is_not_masked(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    trace = write(hidden(api_key="key-SECRET-1"))
    done = tbench(
        *("replay", trace, *CLOSED, "--base-url", server.url, "-o", "a.run", "--json"),
        *("--set", 'api_key="key-SECRET-2"'),
    )

    assert server.received[0].json["api_key"] == "key-SECRET-2"
    assert json.loads(done.out)["masked"] == {}


def test_a_trace_of_embeddings_alone_gets_the_model(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    trace = write(embedding(), embedding())
    done = tbench(
        "replay", trace, *CLOSED, "--base-url", server.url, "--model", "new", "-o", "a.run"
    )

    assert models(server) == ["new", "new"]
    assert "unchanged" not in done.out


def test_each_endpoint_has_its_own_new_model(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    trace = write(recorded(CHAT), embedding(), embedding(b"other"))
    done = tbench(
        *("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new"),
        *("--map-model", "embedder=small", "-o", "a.run"),
    )

    assert sorted(models(server)) == ["new", "other", "small"]
    assert "1 request: embeddings" in done.out


def test_one_model_cannot_serve_embeddings_and_rerank(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    """Nothing tells which of them was meant."""
    trace = write(embedding(), recorded(RERANK, path="rerank"))
    done = tbench("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new")
    only = tbench(
        *("replay", trace, *CLOSED, "--base-url", server.url, "--model", "new"),
        *("--only", "rerank", "-o", "a.run"),
    )

    assert (done.code, only.code) == (2, 0)
    assert "no one model serves embeddings and rerank; use --map-model OLD=NEW" in done.err
    assert models(server) == ["new"]
    assert "skipped     1 only" in only.out


@pytest.mark.parametrize(
    ("only", "sent"),
    [
        (["chat"], ["old"]),
        (["embedder"], ["embedder"]),
        (["other.example"], ["ranker"]),
        (["embeddings", "old"], ["embedder", "old"]),
    ],
)
def test_only_some_requests_are_sent(
    tbench: Callable[..., Done],
    write: Callable[..., Path],
    server: Answering,
    only: list[str],
    sent: list[str],
) -> None:
    """By endpoint, model or recorded host; the others are counted."""
    trace = write(
        recorded(CHAT), embedding(), recorded(RERANK, path="rerank", host="other.example")
    )
    flags = [word for value in only for word in ("--only", value)]
    done = tbench("replay", trace, *CLOSED, "--base-url", server.url, *flags, "-o", "a.run")
    look = tbench("replay", trace, *CLOSED, "--base-url", server.url, *flags, "--dry-run", "--json")

    assert sorted(models(server)) == sent
    assert json.loads(look.out)["skipped"] == {"only": 3 - len(sent)}
    assert f"skipped     {3 - len(sent)} only" in done.out


def test_an_experiment_takes_the_filter(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering, tmp_path: Path
) -> None:
    """From the command line and from a plan file."""
    trace = write(recorded(CHAT), embedding())
    arms = ("--arm", f"name=a,base_url={server.url}", "--arm", f"name=b,base_url={server.url}")
    (tmp_path / "p.toml").write_text('only = ["embeddings"]\n')
    words = ("ab", trace, *arms)
    flags = tbench(*words, "--only", "chat", "--dry-run", "--json")
    plan = tbench(*words, "--plan", "p.toml", "--dry-run", "--json")

    for done in (flags, plan):
        assert done.code == 0, done.err
        assert [arm["requests"] for arm in json.loads(done.out)["arms"]] == [1, 1]


def test_a_trace_of_a_forward_proxy_goes_where_it_went(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    host = server.url.removeprefix("http://")
    trace = write(recorded(CHAT, host=host), recorded(CHAT, host=host))
    done = tbench("replay", trace, *CLOSED, "-o", "a.run")

    assert done.ended, done.err
    assert models(server) == ["old", "old"]
    assert "hosts" not in done.out


def test_a_trace_of_several_hosts_needs_to_be_told(
    tbench: Callable[..., Done], write: Callable[..., Path], server: Answering
) -> None:
    """A key is for one of them: it never goes to another by itself."""
    host = server.url.removeprefix("http://")
    trace = write(recorded(CHAT, host=host), recorded(CHAT, host="api.example.com"))
    none = tbench("replay", trace, *CLOSED, "-o", "a.run")
    one = tbench("replay", trace, *CLOSED, "--only", host, "-o", "b.run")
    flags = ("replay", trace, *CLOSED, "--base-url", server.url)
    every, look = tbench(*flags, "-o", "c.run"), tbench(*flags, "--dry-run")

    assert none.code == 2
    assert f"its requests went to 2 hosts ({host}, api.example.com): give --base-url" in none.err
    assert one.ended
    assert every.ended
    assert len(server.received) == 1 + 2
    for shown in (every, look):
        assert f"({host} 1, api.example.com 1), all sent to {server.url}" in shown.out


def test_a_host_that_comes_late_is_left_out(
    write: Callable[..., Path],
    server: Answering,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the beginning of a trace is looked at: whatever follows goes to no other host's address."""
    monkeypatch.setattr("tbench.replay.job.PREVIEW", 1)
    host = server.url.removeprefix("http://")
    trace = write(recorded(CHAT, host=host), recorded(CHAT, host="api.example.com"))
    plan = resolve(ReplayOptions(trace=trace), send=False).plan()

    assert [planned.exchange.request.host for planned in plan] == [host]
    assert plan.skipped == {"host": 1}


def test_a_limit_that_is_raised_may_cost_more(write: Callable[..., Path]) -> None:
    """--max-cost reckons with what is sent, not with what was recorded: 1M output tokens at 0.20."""
    asked = {**ASKED, "model": "openai/gpt-oss-20b", "max_tokens": 10}
    trace = write(recorded(json.dumps(asked).encode()))
    options = ReplayOptions(
        trace=trace,
        base_url="http://127.0.0.1:9",
        api_key_env="",
        concurrency=1,
        max_cost=1.0,
        set={"max_tokens": 1_000_000},
        out=trace.with_name("x.run"),
    )
    job = resolve(options)
    call = recipe_of([job], None).call(next(steps(job, job.plan(answers=True), None)))

    assert call.cost == pytest.approx(0.20, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "tick_s"),
    [
        ({"speed": 2.0}, 3.0),
        ({"rate": 5.0}, 3.0),
        ({"poisson": 5.0}, None),
        ({"concurrency": 2}, None),
    ],
    ids=str,
)
def test_a_coarse_clock_is_named_where_its_ticks_are_replayed(
    options: dict[str, Any], tick_s: float | None, tmp_path: Path
) -> None:
    path = tmp_path / "t.msgpack"
    made = {"tick_ns": 3 * 10**9, "spread": False}
    with TraceWriter(path, TraceHeader(wall_ns=1, mono_ns=0, extra={"import": made})) as writer:
        for seq in range(3):
            at = seq * 10**9
            place = {"id": f"{seq:032x}", "seq": seq, "arrive_ns": at, "end_ns": at}
            request = replace(recorded(CHAT).request, **place)
            answer = Response(head_ns=at, end_ns=at, status=200)
            writer.exchange(Exchange(request=request, response=answer))

    job = resolve(ReplayOptions(path, base_url="http://h", ramp=4.0, **options), send=False)
    seen = estimate(job)

    assert job.warmup.seconds(100.0) == 4.0, "the ramp"
    assert seen.tick_s == tick_s
    assert ("ticks of 3 s" in "\n".join(outlook(seen))) == (tick_s is not None)
