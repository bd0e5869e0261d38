"""Odd servers: what each behaviour truly is, and that capture, report and both senders say so."""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tbench.analysis.arms import Arm, load_arm
from tbench.simulator.odd import ODD
from tests.conftest import Done, Server

SENDERS = ["httpx", "engine"] if sys.platform == "linux" else ["httpx"]
ALONE = {name: odd for name, odd in ODD.items() if not odd.every}
"""Whose answer does not depend on how often it was asked."""
ASKED = {"role": "user", "content": "hi"}
UNHURRIED = {name: odd for name, odd in ALONE.items() if name != "hangs"}


def ask(url: str, model: str) -> None:
    """Whatever comes: the client does not judge."""
    api = ODD[model].api
    prompt = {"input": "hi"} if api == "responses" else {"messages": [ASKED], "max_tokens": 10}
    body = {"model": model, "stream": True, **prompt}
    patience = 3 if model == "trailers" else 30  # no capture passes their end on (docs/capture.md)
    with (
        suppress(httpx.HTTPError),
        httpx.stream("POST", f"{url}/v1/{api}", json=body, timeout=patience) as answer,
    ):
        b"".join(answer.iter_raw())


@pytest.fixture(scope="module")
def odd() -> Iterator[Server]:
    server = Server("serve", "--odd", "--port", "0", "--duration", "300")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def trace(odd: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One request for every behaviour, through a capture."""
    path = tmp_path_factory.mktemp("odd") / "t.msgpack"
    capture = Server("capture", "--upstream", odd.url, "--port", "0", "-o", path)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda model: ask(capture.url, model), UNHURRIED))
    assert capture.stop() == 0
    return path


@pytest.fixture(scope="module")
def arms(odd: Server, trace: Path) -> dict[str, Arm]:
    """The capture as a report reads it, and a replay by each sender."""
    from tbench import replay

    arms = {"capture": load_arm(trace)}
    for sender in SENDERS:
        out = trace.with_name(f"{sender}.run")
        replay(trace, base_url=odd.url, concurrency=16, sender=sender, out=out, timeout=20)
        arms[sender] = load_arm(out)
    return arms


def row(arm: Arm, model: str) -> dict[str, Any]:
    """The columns of the one request that went to this model."""
    (at,) = (place for place, name in enumerate(arm.columns["model"]) if name == model)
    return {name: column[at] for name, column in arm.columns.items() if len(column) == len(arm)}


@pytest.mark.parametrize("place", ["capture", *SENDERS])
def test_an_odd_answer_is_read_for_what_it_is(arms: dict[str, Arm], place: str) -> None:
    """The same outcome, output tokens and number of token events wherever the same bytes are judged."""
    truths, read = {}, {}
    for model, odd in UNHURRIED.items():
        sample = row(arms[place], model)
        events = sample["token_events"] if odd.events is None else odd.events
        truths[model] = odd.outcome, -1 if odd.output is None else odd.output, events
        read[model] = sample["outcome"], sample["output_tokens"], sample["token_events"]

    assert read == truths


def by_sdk(url: str, model: str) -> tuple[Any, ...]:
    """How an answer ended as its maker's SDK tells it, and its output tokens."""
    import anthropic
    import openai

    if ODD[model].api == "messages":
        claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        with claude.messages.stream(model=model, max_tokens=10, messages=[ASKED]) as stream:  # type: ignore[list-item]
            message = stream.get_final_message()
        return message.stop_reason, message.usage.output_tokens
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with client.responses.stream(model=model, input="hi") as events:
        *_, last = events
    response: Any = getattr(last, "response", None)
    return last.type, response and response.usage and response.usage.output_tokens


@pytest.mark.parametrize(
    ("model", "ending"),
    [
        ("messages", ("end_turn", 10)),
        ("messages-pings", ("end_turn", 10)),
        ("messages-refusal", ("refusal", 4)),
        ("messages-overloaded", "overloaded_error"),
        ("messages-529", "overloaded_error"),
        ("responses", ("response.completed", 10)),
        ("responses-incomplete", ("response.incomplete", 10)),
        ("responses-refusal", ("response.completed", 10)),
        ("responses-failed", ("response.failed", None)),
        ("responses-error", ("error", None)),
    ],
)
def test_the_makers_sdks_read_it_so(odd: Server, model: str, ending: tuple[Any, ...] | str) -> None:
    """What the rows say of other dialects is what their SDKs say of the same bytes."""
    if isinstance(ending, tuple):
        assert by_sdk(odd.url, model) == ending
    else:
        with pytest.raises(Exception, match=ending):
            by_sdk(odd.url, model)


@pytest.mark.parametrize(("model", "failed"), [("half-refused", 5), ("third-fails", 3)])
def test_some_requests_fail_as_often_as_told(
    odd: Server, trace: Path, model: str, failed: int, tbench: Callable[..., Done]
) -> None:
    """Every second or third by count, whatever is in flight."""
    words = ["--base-url", odd.url, "--model", model, "--concurrency", 2, "--requests", 10]
    done = tbench("replay", trace, *words, "--loop", 2, "-o", "x.run", "--json", "--warmup", "none")
    said = json.loads(done.out)

    assert (said["planned"], said["failed"]) == (10, failed)


def test_what_goes_with_odd_models_is_said(tbench: Callable[..., Done], odd: Server) -> None:
    """They have no profile, keys or faults; an unknown one is a 404 that says where the names are."""
    refused = tbench("serve", "--odd", "--fault", "429=1")
    unknown = httpx.post(f"{odd.url}/v1/chat/completions", json={"model": "even"})
    listed = httpx.get(f"{odd.url}/v1/models").json()

    assert refused.code == 2
    assert "--odd goes with --host, --port, --duration and --requests only" in refused.err
    assert (unknown.status_code, "GET /v1/models" in unknown.text) == (404, True)
    assert {model["id"] for model in listed} == set(ODD)
    assert all(model["about"] for model in listed)
