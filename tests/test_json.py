"""docs/json.md names every key that `--json` prints, in the section of its verb."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.exchange import Exchange, Request, Response
from capture.tracefile import TraceHeader, TraceWriter

DOC = (Path(__file__).parent.parent / "docs" / "json.md").read_text()
SECTIONS = {
    title: set(re.findall(r"`\"?([\w.]+)\"?`", text))
    for title, text in re.findall(r"^## `(.+?)`$(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)
}
DATA = {
    "outcomes", "models", "endpoints", "idc", "errors", "skipped", "shift", "summaries", "definitions",
    "quantiles", "kinds", "plan",
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
            flat = key in DATA and isinstance(item, dict)
            yield from keys(list(item.values()) if flat and "ci" not in item else item)


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
            request = Request(
                id=f"{seq:032x}",
                seq=seq,
                arrive_ns=at,
                end_ns=at,
                method="POST",
                scheme="http",
                host="h",
                path="/v1/chat/completions",
                headers=(("content-type", "application/json"),),
                body=body,
                body_bytes=len(body),
            )
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
        "replay --dry-run": (*send, "--dry-run"),
        "replay": (*send, "-o", "a.run", "--warmup", "none", "--header", "authorization: Bearer k"),
        "report": ("report", "a.run", "--samples"),
        "compare": ("compare", "a.run", "a.run"),
        "power": ("power", "a.run"),
        "ab": (
            "ab", trace, "--arm", f"name=A,base_url={simulator.url}", "--arm",
            f"name=B,base_url={simulator.url}", "--repeats", 1, "--gate", "errors:5pp", "-o", "ab",
        ),
        "doctor": ("doctor",),
    }  # fmt: skip
    assert list(SECTIONS) == list(printed)
    for verb, words in printed.items():
        done = tbench(*words, "--json")
        assert done.code in {0, 3, 4}, done.err
        known = SECTIONS[verb] | (SECTIONS["replay"] if verb == "report" else set())
        known |= SECTIONS["report"] if verb == "compare" else set()
        known |= SECTIONS["compare"] | SECTIONS["replay"] if verb == "ab" else set()
        found = set(keys(json.loads(done.out)))

        assert found - known == set(), verb
        assert len(found) > 8
