"""The tools of `tbench trace`: what they keep stays as it was, to the byte; what they say is so."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count, pairwise, repeat
from pathlib import Path
from typing import Any

import pytest

from tbench import __main__ as entry
from tbench.capture import frames
from tbench.capture.container_reader import Container
from tbench.capture.copying import Part, Parts, copy
from tbench.capture.errors import InputError
from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.filters import EVERYTHING, Condition, bind
from tbench.capture.frames import BLOCK
from tbench.capture.records import Clock, Gap, TraceHeader
from tbench.capture.repair import check
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import Trace, read_trace
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tests.recorded import chat_request

WALL = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
S = 10**9
Run = Callable[..., tuple[int, str, str]]


def exchange(number: int, *, name: str = "r", **request: Any) -> Exchange:
    """Every third is of model b, every fifth refused, every seventh without an answer; sessions of four."""
    messages = [{"role": "user", "content": f"session {number // 4}"}]
    for turn in range(number % 4):
        messages += [
            {"role": "assistant", "content": f"answer {turn}"},
            {"role": "user", "content": f"turn {turn}"},
        ]
    body = json.dumps({"model": "b" if number % 3 == 0 else "a", "messages": messages}).encode()
    plain = {
        "id": f"{name}{number:04d}",
        "end_ns": number * S + 1,
        "scheme": "https",
        "host": "api.example",
        "extra": {"of_a_newer_writer": [number]},
    }
    said = (
        b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":1}}'
    )
    status = 429 if number % 5 == 0 else 200
    answer = said % number if status == 200 else b'{"error":{"message":"slow down"}}'
    end = number * S + 5 * S
    response = Response(
        head_ns=end,
        end_ns=end,
        status=status,
        headers=(("content-type", "application/json"),),
        body=answer,
        body_bytes=len(answer),
        outcome=Outcome.OK if status == 200 else Outcome.HTTP_ERROR,
    )
    asked = chat_request(number, number * S, body, **{**plain, **request})
    return Exchange(request=asked, response=None if number % 7 == 0 else response)


def write(path: Path, exchanges: Iterable[Exchange], **header: Any) -> Path:
    """A capture of several segments, where each response comes some requests after its own."""
    late: list[tuple[str, Response]] = []
    clock = count(0.0, 0.05).__next__  # so that blocks are sealed, and segments end
    made = TraceHeader(**{"wall_ns": WALL, "mono_ns": 0, **header})
    with TraceWriter(path, made, rotate_bytes=3000, clock=clock) as writer:
        for number, item in enumerate(exchanges):
            writer.request(item.request)
            if item.response is not None:
                late.append((item.request.id, item.response))
            if len(late) > 3:
                writer.response(*late.pop(0))
            if number == 20:
                writer.clock(Clock(mono_ns=20 * S, wall_ns=header.get("wall_ns", WALL) + 20 * S))
                lost = {"requests": 2, "responses": 0, "bytes": 9, "reason": "memory"}
                writer.gap(Gap(from_ns=20 * S, to_ns=21 * S, **lost))
        for answer in late:
            writer.response(*answer)
    return path


def records(trace: Trace) -> Counter[bytes]:
    """The raw bytes of every record of a trace."""
    raw: Counter[bytes] = Counter()
    for segment in trace.segments:
        for frame in segment.container.walk():
            if frame.code == BLOCK:
                edges = frames.edges(frame.raw)
                raw.update(frame.raw[a:b] for a, b in pairwise(edges))
    return raw


def ids(path: Path) -> list[str]:
    return [item.request.id for item in read_trace(path)]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write(tmp_path / "t.msgpack", map(exchange, range(60)))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`tbench trace ARGUMENTS` in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = entry.run(["trace", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


FILTERS = {
    "slice --from 10s --to 30s": lambda n: 10 <= n < 30,
    "slice --last 9s": lambda n: n >= 50,
    "slice --from 2026-01-01T00:00:40Z": lambda n: n >= 40,
    "filter --only model=b": lambda n: n % 3 == 0,
    "filter --only model=b --only model=a --only from=5": lambda n: n >= 5,
    "filter --only b --only nobody": lambda n: n % 3 == 0,
    "filter --only status=429": lambda n: n % 5 == 0 and n % 7 != 0,
    "filter --only status>=400 --only model!=b": lambda n: n % 5 == 0 and n % 7 and n % 3,
    "filter --only outcome=incomplete": lambda n: n % 7 == 0,
    "filter --only status=none": lambda n: n % 7 == 0,
    "filter --only status=4* --only outcome=http_* --only stream=f*": lambda n: not n % 5 and n % 7,
    "filter --only session=s3": lambda n: n // 4 == 2,
    "filter --only turn=0": lambda n: n % 4 == 0,
    "filter --only prompt_tokens>50": lambda n: n > 50 and n % 5 and n % 7,
    "filter --only host=api.* --only endpoint=chat --only e2e<=5 --only to=7": lambda n: 0 < n < 7,
    "filter --only messages=7.0": lambda n: n % 4 == 3,
}


@pytest.mark.parametrize("words", FILTERS)
def test_what_is_meant_is_kept_to_the_byte(
    trace: Path, tmp_path: Path, run: Run, words: str
) -> None:
    """Of every kept record the bytes, all others but those of no exchange gone; counted, sound, in order."""
    wanted = [n for n in range(60) if FILTERS[words](n)]
    verb, *flags = words.split()
    code, out, err = run(verb, trace, *flags, "-o", tmp_path / "out.msgpack")
    copy, source = read_trace(tmp_path / "out.msgpack"), read_trace(trace)
    names = {f"r{n:04d}" for n in wanted}
    kept = records(copy)

    assert (code, err) == (0, ""), err
    assert out.startswith(f"{tmp_path / 'out.msgpack'}: {len(wanted)} request")
    assert ids(tmp_path / "out.msgpack") == sorted(names)
    assert kept - records(source) == Counter()
    expected = Counter(
        packed
        for packed in records(source).elements()
        if (record := frames.unpack_one(packed)).get("id") in names  # type: ignore[union-attr]
        or record["type"] == "clock"
        or (record["type"] == "gap" and (verb == "filter" or "10s" in words))
    )
    if "from=" not in words and "to=" not in words:
        assert kept == expected
    assert list(copy) == [item for item in source if item.request.id in names]
    assert copy.header.wall(0) == source.header.wall(0)
    step = copy.header.extra["steps"][-1]
    assert (step["verb"], step["requests"], step["of_requests"]) == (
        f"trace {verb}",
        len(wanted),
        60,
    )
    assert (tmp_path / "out.msgpack").stat().st_mode & 0o777 == 0o600
    assert [
        line for line in check(tmp_path / "out.msgpack").problems if "dropped" not in line
    ] == []


def test_a_sample_is_of_whole_sessions_and_always_the_same(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """A share or a number; what is drawn after another filter is drawn without it, too."""
    drawn = {}
    for name, share in (("a", "30%"), ("b", "0.3"), ("c", "5"), ("d", "7")):
        assert run("sample", trace, share, "-o", tmp_path / f"{name}.msgpack")[0] == 0
        drawn[name] = {int(id_[1:]) for id_ in ids(tmp_path / f"{name}.msgpack")}
        assert all(n // 4 * 4 + k in drawn[name] for n in drawn[name] for k in range(4))
    run("sample", trace, "30%", "--only", "model=b", "-o", tmp_path / "e.msgpack")

    assert drawn["a"] == drawn["b"]
    assert (len(drawn["c"]), len(drawn["d"])) == (20, 28)
    assert drawn["c"] < drawn["d"]
    assert ids(tmp_path / "e.msgpack") == [f"r{n:04d}" for n in sorted(drawn["a"]) if n % 3 == 0]


def test_a_merge_puts_traces_on_one_clock(tmp_path: Path, run: Run) -> None:
    """By their dates, whatever their own clocks say; only the times change, all by the same."""
    first = write(tmp_path / "a.msgpack", map(exchange, range(40)))
    later = [exchange(n, name="x") for n in range(40)]
    second = write(tmp_path / "b.msgpack", later, wall_ns=WALL + S // 2, mono_ns=0)
    code, out, err = run("merge", second, first, "-o", tmp_path / "m.msgpack")
    merged = read_trace(tmp_path / "m.msgpack")
    names = [f"{name}{n:04d}" for n in range(40) for name in "rx"]

    assert (code, err) == (0, "")
    assert "80 requests" in out
    assert [item.request.id for item in merged] == names
    assert merged.totals["dropped_requests"] == 4
    for item in merged:
        if item.request.id[0] == "x":
            before = later[item.request.seq]
            assert item.request.arrive_ns == before.request.arrive_ns + S // 2
            moved = {"arrive_ns": item.request.arrive_ns, "end_ns": item.request.end_ns}
            assert replace(before.request, **moved) == item.request
    assert sum(name[0] == "r" for name in names) == sum(
        records(merged)[packed]
        for packed in records(read_trace(first))
        if frames.unpack_one(packed)["type"] == "request"  # type: ignore[index]
    )


def test_slices_that_overlap_merge_into_what_they_are_of(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """Each exchange once."""
    run("slice", trace, "--to", "40", "-o", tmp_path / "1.msgpack")
    run("slice", trace, "--from", "30", "-o", tmp_path / "2.msgpack")
    code, out, _ = run(
        "merge", tmp_path / "1.msgpack", tmp_path / "2.msgpack", "-o", tmp_path / "m.msgpack"
    )

    assert code == 0
    assert "10 requests in two of the traces: taken once" in out
    assert list(read_trace(tmp_path / "m.msgpack")) == list(read_trace(trace))


@pytest.mark.parametrize(
    "verb", ["slice --to 20", "filter --only model=a", "sample 50%", "redact --content keep"]
)
def test_a_copy_beside_its_source_is_refused(
    trace: Path, tmp_path: Path, run: Run, verb: str
) -> None:
    """When it is opened; so is a copy of a copy."""
    name, *words = verb.split()
    run(name, trace, *words, "-o", tmp_path / "u.msgpack")
    run("slice", tmp_path / "u.msgpack", "--to", "9", "-o", tmp_path / "v.msgpack")

    for copy_of in ("u", "v"):
        beside = tmp_path / f"beside-{copy_of}"
        beside.mkdir()
        for file in (*tmp_path.glob("t*.msgpack"), tmp_path / f"{copy_of}.msgpack"):
            (beside / file.name).write_bytes(file.read_bytes())
        with pytest.raises(
            InputError, match=rf"t\.msgpack and .*{copy_of}\.msgpack: .*trace merge"
        ):
            read_trace(beside)


def test_parts_that_share_a_request_are_refused_together(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """Neither is a copy of the other: whoever reads them is told at the request, a replay before it sends."""
    folder = tmp_path / "parts"
    folder.mkdir()
    run("slice", trace, "--to", "40", "-o", folder / "1.msgpack")
    run("slice", trace, "--from", "30", "-o", folder / "2.msgpack")

    refusal = r"\.msgpack and .*\.msgpack: both hold the request r0030; .*trace merge"
    with pytest.raises(InputError, match=refusal):
        list(read_trace(folder))
    with pytest.raises(InputError, match=refusal):
        resolve(ReplayOptions(folder, base_url="http://127.0.0.1:9", concurrency=2), send=False)


@pytest.mark.parametrize("way", ["--by model", "--shares 60,40", "--every 25s", "--size 0.005"])
def test_a_split_holds_every_exchange_once(trace: Path, tmp_path: Path, run: Run, way: str) -> None:
    code, _, err = run("split", trace, *way.split(), "-o", tmp_path / "parts")
    parts = {file.stem: ids(file) for file in (tmp_path / "parts").iterdir()}

    assert (code, err) == (0, "")
    assert sorted(id_ for part in parts.values() for id_ in part) == ids(trace)
    assert ids(tmp_path / "parts") == ids(trace)
    numbers = {name: [int(id_[1:]) for id_ in part] for name, part in parts.items()}
    match way.split(maxsplit=1)[0]:
        case "--by":
            assert {name: {n % 3 == 0 for n in part} for name, part in numbers.items()} == {
                "a": {False},
                "b": {True},
            }
        case "--shares":
            assert len(numbers) == 2
            sessions = [{n // 4 for n in part} for part in numbers.values()]
            assert not sessions[0] & sessions[1]
        case "--every":
            assert {name: {n // 25 for n in part} for name, part in numbers.items()} == {
                f"000{k}": {k} for k in range(3)
            }
        case "--size":
            assert len(numbers) > 2
            assert all(part == list(range(part[0], part[-1] + 1)) for part in numbers.values())


def test_what_the_source_lost_is_said(trace: Path, tmp_path: Path, run: Run) -> None:
    """A damaged block: the copy is sound, and it, its maker and its index say what is not in it."""
    file = read_trace(trace).segments[2].container
    rows = file.rows
    assert rows is not None
    data = bytearray(file.path.read_bytes())
    data[rows[0].offset + 60] ^= 0xFF
    file.path.write_bytes(data)
    code, _, err = run("filter", trace, "--only", "chat", "-o", tmp_path / "o.msgpack")

    assert code == 0
    assert "lost in what was read: 1 damaged block" in err
    assert Container(tmp_path / "o.msgpack").index["lost"]["damaged_blocks"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--only", "nonsense"], "no request is left by --only nonsense"),
        (["--only", "modle=a"], "no field modle"),
        (["--only", "model>3"], "model is no number"),
        (["--only", "status>many"], "many is no number"),
        (["--only", "chat", "--only", "Status>=400"], "Status>=400: no comparison of a field"),
        (["--only", "chat", "--only", "max-tokens=5"], "max-tokens=5: no comparison of a field"),
        (["--only", "chat", "--only", "status >= 400"], "write FIELD=VALUE without spaces"),
        (["--only", "status=200", "--only", "status=4xx"], "4xx is no number"),
        (["--only", "status!=400,429"], "400,429 is no number"),
        (["--only", "stream!=True"], "True is none of true, false"),
        (["--only", "outcome!=OK"], "OK is none of ok, http_error"),
        (["--only", "outcome!=none"], "none is none of ok, http_error"),
        (["--only", "from=yesterday"], "give a time"),
        (["--only", "from=5", "--only", "from=6"], "given twice"),
        (["--only", "from=9", "--only", "to=3"], "nothing is left"),
        (["--only", "sample=0"], "give a share"),
        (["--only", ""], "give an endpoint"),
        ([], "give --only"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(
    trace: Path, tmp_path: Path, run: Run, words: list[str], why: str
) -> None:
    code, out, err = run("filter", trace, *words, "-o", tmp_path / "o.msgpack")

    assert (code, out) == (2, "")
    assert why in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.glob("o.*"))


@pytest.mark.parametrize("words", ["head", "compare {}", "export -o {}.csv"])
def test_a_filter_that_leaves_nothing_is_refused_by_every_tool(
    trace: Path, run: Run, words: str
) -> None:
    verb, *rest = words.format(trace).split()

    code, out, err = run(verb, trace, *rest, "--only", "model=zz")

    assert (code, out) == (2, "")
    assert "no request is left by --only model=zz" in err


@pytest.mark.parametrize(
    ("value", "matches", "others"),
    [("a[1]*", "a[1]b", "a1b"), ("a?*", "a?b", "axb"), ("*x", "\nx", "xy"), ("a", "a", "ab")],
)
def test_only_the_star_stands_for_other_text(value: str, matches: str, others: str) -> None:
    models = [
        Facts(exchange(1, body=json.dumps({"model": model}).encode()))
        for model in (matches, others)
    ]

    assert [Condition("model", "=", value).holds(facts) for facts in models] == [True, False]


@pytest.mark.parametrize("words", ["split --by host", "merge"])
def test_an_empty_trace_is_said_to_be_empty(tmp_path: Path, run: Run, words: str) -> None:
    verb, *rest = words.split()

    code, out, err = run(verb, write(tmp_path / "e.msgpack", []), *rest, "-o", tmp_path / "o")

    assert (code, out) == (2, "")
    assert err.endswith("e.msgpack: holds no request\n")


def test_nothing_is_overwritten_and_nothing_undated_merged(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    undated = write(tmp_path / "u.msgpack", map(exchange, range(3)), wall_ns=0)

    assert run("slice", trace, "--from", "5", "-o", trace)[0] == 2
    assert len(ids(trace)) == 60
    code, _, err = run("merge", trace, undated, "-o", tmp_path / "o.msgpack")
    assert (code, "has no dates" in err) == (2, True)


def test_replay_means_the_same(trace: Path, tmp_path: Path, run: Run) -> None:
    """One grammar: what filter keeps is what replay plans, from the command line and from a program."""
    from tbench.replay.job import resolve
    from tbench.replay.options import ReplayOptions

    words = ["status=200", "sample=50%", "from=10"]
    flags = [word for value in words for word in ("--only", value)]
    run("filter", trace, *flags, "-o", tmp_path / "o.msgpack")
    options = ReplayOptions(trace=trace, base_url="http://h", only=words)
    job = resolve(options, send=False)

    for answers in (True, False):
        plan = job.plan(answers=answers)
        assert [item.exchange.request.id for item in plan] == ids(tmp_path / "o.msgpack")
        assert plan.skipped == {"only": 60 - len(ids(tmp_path / "o.msgpack"))}


def test_a_dry_run_of_nothing_is_refused(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = entry.run(["replay", str(trace), "--base-url", "http://h", "--dry-run", "--only", "x"])

    assert code == 2
    assert "no request is left by --only x" in capsys.readouterr().err


def test_any_words_are_a_filter_or_refused(trace: Path) -> None:
    """A line says why; nothing else is ever raised."""
    source, rng = read_trace(trace), random.Random(1)
    pieces = [
        "model",
        "status",
        "from",
        "sample",
        "last",
        "=",
        "!=",
        ">",
        "<=",
        "9",
        "10m",
        "*",
        "%",
        "ü",
        " ",
        "1e9",
    ]
    for _ in range(2000):
        word = "".join(rng.choices(pieces, k=rng.randrange(5)))
        try:
            walk = bind([word], source).start()
            for item in (exchange(1), exchange(7)):
                walk.keeps(item)
        except InputError as error:
            assert "\n" not in str(error)


def test_head_says_what_was_said(trace: Path, run: Run) -> None:
    """Messages and answer, put together; `session` is what a filter calls it."""
    out = run("head", trace, "--decode", "--only", "session=s2", "-n", 2)[1]
    row = json.loads(run("head", trace, "--decode", "--json", "--only", "turn=1", "-n", 1)[1])

    assert "    user: session 1\n    assistant: answer 0\n    user: turn 0\n" in out
    assert " s2 " in out.splitlines()[1]
    (first,) = row["exchanges"]
    assert (first["id"], first["session"], first["answer"]) == ("r0001", "s1", "x")
    assert first["messages"][-1] == {"role": "user", "text": "turn 0"}
    assert first["request"]["model"] == "a"
    assert first["response"]["choices"][0]["message"] == {"content": "x"}


def test_a_diff_names_what_is_in_one_alone_or_changed(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """Whatever the clocks count from; exit code 1 for any difference."""
    changed = exchange(8, host="other.example", extra={})
    others = [*map(exchange, range(8)), changed, *map(exchange, range(9, 55))]
    other = write(tmp_path / "o.msgpack", others, wall_ns=WALL + 7, mono_ns=7)
    figures = json.loads(run("diff", trace, other, "--json")[1])
    code, out, _ = run("diff", trace, other, "-n", 2)

    assert figures["lines"][0] == ["r0008", "request.host, request.extra"]
    assert (figures["same"], figures["changed"], figures["only"]) == (54, 1, [5, 0])
    assert (code, out.count("\n")) == (1, 4)
    assert "and 4 more" in out
    assert run("diff", trace, trace)[0] == 0


def mix(path: Path, name: str, gaps: Iterable[float], **asked: Any) -> Path:
    """A thousand chat requests of sessions of their own, their gaps in s given."""
    at, items = 0.0, []
    prefix = "p" * asked.pop("prefix", 0)
    for number, gap in zip(range(1000), gaps, strict=False):
        at += gap
        words = [{"role": "user", "content": f"{prefix} {number:05d} " + "w" * 600}]
        body = json.dumps({"model": "m", "messages": words, **asked}).encode()
        request = exchange(number, name=name, arrive_ns=round(at * S), end_ns=round(at * S)).request
        request = replace(request, body=body, body_bytes=len(body))
        items.append(Exchange(request=request, response=None))
    with TraceWriter(path, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        for item in items:
            writer.exchange(item)
    return path


def test_mixes_are_as_far_apart_as_they_are(tmp_path: Path, run: Run) -> None:
    """Known truth: Poisson against even arrivals, a shared prefix, tools; all else within its halves."""
    rng = random.Random(5)
    poisson = iter(lambda: rng.expovariate(10), None)
    first = mix(tmp_path / "a.msgpack", "a", poisson)
    second = mix(
        tmp_path / "b.msgpack", "b", repeat(0.1), prefix=15_000, tools=[{"type": "function"}]
    )
    again = mix(tmp_path / "c.msgpack", "c", poisson)
    code, out, _ = run("compare", first, second, "--json")
    table = json.loads(out)
    rows = {row["name"]: row for row in table["dimensions"]}
    alike = json.loads(run("compare", first, again, "--json")[1])["dimensions"]

    assert (code, table["requests"], table["sessions"]) == (0, [1000, 1000], [1000, 1000])
    assert rows["CV of gaps"]["values"] == pytest.approx([1.0, 0.0], abs=0.1)
    assert rows["IDC in 1 s"]["values"][0] == pytest.approx(1.0, abs=0.35)
    assert (rows["IDC in 10 s"]["distance"], rows["IDC in 10 s"]["n"][1]) == (None, 9)
    assert rows["IDC in 1 s"]["values"][1] == pytest.approx(0.0, abs=0.05)
    # exp(-x) is furthest from a step at its mean: 1 - 1/e of the gaps are shorter.
    assert rows["gap_s"]["distance"] == pytest.approx(1 - 1 / 2.71828, abs=0.05)
    assert rows["tools"]["distance"] == 1.0
    assert rows["models"]["distance"] == 0.0
    assert rows["request_bytes"]["distance"] == 1.0
    assert rows["prompt_tokens"]["distance"] is None
    assert rows["prompt_tokens"]["n"] == [0, 0]
    # 15,000 of 15,600 bytes are shared by all but the first: 58 of 61 whole blocks of 256.
    assert rows["prefix sharing"]["values"] == [0.0, pytest.approx(58 / 61, abs=0.01)]
    names = {name for name, row in rows.items() if row["beyond"]}
    assert names >= {"gap_s", "tools", "request_bytes", "prefix sharing", "CV of gaps"}
    assert {row["name"] for row in alike if row["beyond"] and row["distance"] > 0.1} == set()
    # The halves by time are those of what is compared, not of the whole trace.
    early = json.loads(run("compare", first, second, "--json", "--only", "to=20")[1])["dimensions"]
    assert next(row["beyond"] for row in early if row["name"] == "CV of gaps")
    text = run("compare", first, second)[1]
    assert "p50 15,7" in text  # bytes, in figures that people read: 12,345 is not 1.234e+04
    assert "e+" not in text
    assert "further apart than two halves of either trace" in text


def test_every_tool_says_what_it_could_not_read(tmp_path: Path, run: Run) -> None:
    """An answer without its request: whether the tool reads answers or not."""
    source = tmp_path / "orphan.msgpack"
    items = [exchange(1), exchange(2)]
    with TraceWriter(source, TraceHeader(wall_ns=WALL, mono_ns=0)) as writer:
        writer.request(items[0].request)
        for item in items:
            assert item.response
            writer.response(item.request.id, item.response)
    words = [
        ("slice", "--from", "0s", "-o", tmp_path / "a"),
        ("filter", "--only", "status=200", "-o", tmp_path / "b"),
        ("split", "--by", "model", "-o", tmp_path / "c"),
        ("export", "-o", tmp_path / "d.csv"),
        ("compare", source),
        ("diff", source),
    ]

    for verb, *rest in words:
        code, _, err = run(verb, source, *rest)
        assert code == 0, err
        assert "1 orphan response" in err, verb


def test_a_split_goes_into_no_folder_that_holds_traces(
    trace: Path, tmp_path: Path, run: Run
) -> None:
    """The folder is read as one trace: of two splits it would hold every exchange twice."""
    folder = tmp_path / "parts"
    assert run("split", trace, "--by", "model", "-o", folder)[0] == 0

    code, _, err = run("split", trace, "--shares", "60,40", "-o", folder)

    assert (code, "choose one without traces" in err) == (2, True)
    assert ids(folder) == ids(trace)


def test_a_part_is_called_what_no_other_is(tmp_path: Path) -> None:
    """Names that differ in what no file name holds are numbered, also where a model has such a name."""
    parts = Parts(tmp_path, EVERYTHING)
    names = [parts.part(name).path.stem for name in ("x", "x-3", "y", "x!", "x?", "x!")]

    assert names == ["x", "x-3", "y", "x-4", "x-5", "x-4"]


def test_a_copy_tells_how_far_it_is(tmp_path: Path) -> None:
    """While it reads and while it copies, of all that there is, and never more."""
    source = read_trace(write(tmp_path / "t.msgpack", map(exchange, range(600))))
    told: list[tuple[str, int, int]] = []
    source.progress = lambda *step: told.append(step)
    part = Part(path=tmp_path / "part.msgpack", from_ns=0, to_ns=2**62)
    copy(source, bind([], source), "trace filter", lambda _exchange, _walk: part)

    assert [step for step in told if step[0] == "reading"] == [
        ("reading", done, 600) for done in (0, 256, 512)
    ]
    copying = [step[1:] for step in told if step[0] == "copying"]
    assert copying == sorted(copying)
    assert copying[-1][0] == copying[-1][1] == sum(len(segment.rows) for segment in source.segments)
