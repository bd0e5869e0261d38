"""docs/json.md names every key that `--json` prints, in the section of its verb."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange, Outcome, Response
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tests.recorded import chat_request

DOC = (Path(__file__).parent.parent / "docs" / "json.md").read_text()
SECTIONS = {
    title: set(re.findall(r"`\"?([\w.]+)\"?`", text))
    for title, text in re.findall(r"^## `(.+?)`$(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)
}
DATA = {
    "outcomes", "models", "endpoints", "idc", "errors", "skipped", "shift", "summaries", "definitions",
    "quantiles", "kinds", "hosts", "portability", "unchanged", "masked", "overall", "plan",
    "error_codes_frequency", "values", "settings", "rate_limits", "attempts", "prices",
}  # fmt: skip
"""Maps from data to numbers: their own keys are not part of the contract."""


def keys(value: Any) -> Iterator[str]:
    """The keys of all maps in a document, but for those that are data."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            parts = item if isinstance(item, list) else [item]
            for part in parts:
                flat = key in DATA and isinstance(part, dict) and "ci" not in part
                yield from keys(list(part.values()) if flat else part)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small chats, 20 ms apart."""
    path = tmp_path_factory.mktemp("json") / "t.msgpack"
    body = (
        b'{"model":"meta-llama/Llama-3.3-70B-Instruct-Turbo","stream":true,"max_tokens":4,'
        b'"messages":[{"role":"user","content":"Hi"}]}'
    )
    with TraceWriter(path, TraceHeader(wall_ns=10**18, mono_ns=0)) as writer:
        for seq in range(4):
            at = seq * 20_000_000
            request = chat_request(seq, at, body)
            response = Response(head_ns=at, end_ns=at + 9_000_000, status=200)
            writer.exchange(Exchange(request=request, response=response))
    return path


def test_every_key_is_documented(
    simulator: Any, tbench: Callable[..., Any], trace: Path, tmp_path: Path
) -> None:
    """Each verb is run as a program would run it; nothing but one object is on stdout."""
    send = ("replay", trace, "--base-url", simulator.url, "--api-key-env", "")
    printed = {
        "trace info": ("trace", "info", trace),
        "trace head": ("trace", "head", trace, "--bodies"),
        "trace compare`, `trace diff": ("trace", "compare", trace, trace),
        "replay --dry-run": (*send, "--dry-run"),
        "replay": (*send, "-o", "a.run", "--warmup", "none", "--header", "authorization: Bearer k"),
        "report": ("report", "a.run", "--samples"),
        "compare": ("compare", "a.run", "a.run"),
        "power": ("power", "a.run"),
        "ab": (
            "ab", trace, "--arm", f"name=A,base_url={simulator.url}", "--arm",
            f"name=B,base_url={simulator.url}", "--repeats", 1, "--gate", "errors:5pp", "-o", "ab",
        ),
        "benchmark": (
            "benchmark", "--api-backend", "together", "--api-base", simulator.url, "--api-model-name",
            "openai/gpt-oss-20b", "--task", "text-to-text", "--num-concurrency", "1", "--traffic-scenario",
            "D(20,4)", "--max-requests-per-run", "4", "--no-summary", "--upload-results", f"file://{tmp_path}/up",
        ),
        "doctor": ("doctor",),
    }  # fmt: skip
    assert list(SECTIONS) == list(printed)
    for verb, words in printed.items():
        done = tbench(*words, "--json")
        assert done.code in {0, 3, 4} and done.out, done.err  # an INVALID run has no power
        known = SECTIONS[verb] | (SECTIONS["replay"] if verb == "report" else set())
        known |= SECTIONS["report"] | SECTIONS["replay"] if verb == "compare" else set()
        known |= (
            SECTIONS["compare"] | SECTIONS["replay"] | SECTIONS["power"] if verb == "ab" else set()
        )
        found = set(keys(json.loads(done.out)))

        assert found - known == set(), verb
        assert len(found) > 8


def write_run(path: Path, tokens: int) -> Path:
    """60 requests, a second apart, of which every sixth is stopped at a moment of its own."""
    writer = RunWriter(path, {"trace": {"capture_id": "c"}}, clock=lambda: 0.0)
    for i in range(60):
        stopped = i % 6 == 0
        seen = {} if stopped else {"first_token": i + 0.5, "last_token": i + 1.0, "status": 200}
        writer.add(
            Sample(
                id=f"r{i}", index=i, endpoint="chat", model="m", stream=True, due=float(i),
                sent=float(i), end=i + 1 + i / 60, output_tokens=tokens,
                outcome=Outcome.CANCELLED if stopped else Outcome.OK, **seen,
            )
        )  # fmt: skip
    fates = {"planned": 60, "completed": 50, "failed": 0, "cancelled": 10}
    return writer.close(fates | {"lost_in_flight": 0, "never_sent": 0})


def test_the_keys_of_what_is_rare_are_documented(
    tbench: Callable[..., Any], tmp_path: Path
) -> None:
    """Requests that were cut short, and answers of another length."""
    one, other = (write_run(tmp_path / f"{tokens}.run", tokens) for tokens in (20, 30))
    report = json.loads(tbench("report", one, "--json").out)
    comparison = json.loads(tbench("compare", one, other, "--json").out)

    assert any(text.startswith("CUT_SHORT: ") for text in comparison["warnings"])
    assert comparison["equal_lengths"]["refusal"] == "n too small (needs ≥ 200)"
    known = SECTIONS["replay"] | SECTIONS["report"]
    assert set(keys(report)) - known == set()
    assert set(keys(comparison)) - known - SECTIONS["compare"] == set()
