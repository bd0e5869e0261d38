"""Messages and Responses from real SDKs, through a capture, and sent again: the SDK knows what was said."""

import json
import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.exchange import Exchange, Outcome
from tbench.capture.providers import ParsedResponse
from tbench.capture.trace_info import Facts
from tbench.capture.trace_reader import read_trace
from tests.conftest import Server, run_tbench

pytest.importorskip("anthropic", reason="the SDK is an extra of the tests")
ROOT = Path(__file__).parent.parent
RECORDER = runpy.run_path(str(ROOT / "fixtures" / "record_cassettes.py"))
PLAIN = {
    name: case
    for name, case in RECORDER["CASES"].items()
    if case.method.startswith(("messages", "responses"))
}
GZIP = {
    f"{name}-gzip": replace(
        case,
        arguments=case.arguments
        | {"extra_headers": {"x-sim-encoding": "gzip", "x-sim-tokens": "12"}},
    )
    for name, case in PLAIN.items()
    if name in {"message-stream-thinking", "message-stream", "response-stream"}
}
CASES: dict[str, Any] = PLAIN | GZIP
LEFT = ("message-left", "response-left")
"""Streams that their client leaves at the first words."""
SLOW = {"x-sim-tokens": "400", "x-sim-itl-ms": "20"}
KEY = "sk-sdk-dialects-0123456789"


@dataclass(frozen=True)
class Stage:
    """What the SDKs made of each answer, its exchange in the trace, and its sample in a replay."""

    said: dict[str, Any]
    exchanges: dict[str, Exchange]
    report: dict[str, Any]

    def answer(self, name: str) -> ParsedResponse:
        answer = Facts(self.exchanges[name]).answer
        assert answer
        return answer

    def sample(self, name: str) -> dict[str, Any]:
        samples = self.report["samples"]
        place = samples["id"].index(self.exchanges[name].request.id)
        return {column: values[place] for column, values in samples.items()}


def leave(url: str, name: str) -> None:
    """Read the first words of a stream, then close it."""
    case = CASES[name.replace("left", "stream")]
    with RECORDER["CLIENTS"][case.sdks[0]](url, KEY) as client:
        arguments = case.arguments | {"stream": True, "extra_headers": SLOW}
        api = client.messages if name.startswith("message") else client.responses
        with api.create(**arguments) as stream:
            for event in stream:
                if event.type in {"content_block_delta", "response.output_text.delta"}:
                    return


@pytest.fixture(scope="module")
def stage(simulator: Server, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Each case once, in order, through one capture; then all of it sent again."""
    folder = tmp_path_factory.mktemp("dialects")
    trace, run = folder / "trace.msgpack", folder / "again.run"
    capture = Server("capture", "--upstream", simulator.url, "--port", 0, "-o", trace)
    try:
        said = {
            name: RECORDER["drive"](case.sdks[0], case, capture.url) for name, case in CASES.items()
        }
        for name in LEFT:
            leave(capture.url, name)
    finally:
        assert capture.stop() == 0
    recorded = sorted(read_trace(trace), key=lambda exchange: exchange.request.seq)
    exchanges = dict(zip([*CASES, *LEFT], recorded, strict=True))

    def tbench(*words: object) -> str:
        done = run_tbench(Path.cwd(), *words, SIM_KEY=KEY)
        assert done.ended, done.err
        return done.out

    target = ("--base-url", simulator.url, "--api-key-env", "SIM_KEY")
    tbench("replay", trace, *target, "--speed", 50, "-o", run, "--json")
    return Stage(said, exchanges, json.loads(tbench("report", run, "--json", "--samples")))


@pytest.mark.parametrize("name", CASES)
def test_the_trace_says_what_the_sdk_was_told(stage: Stage, name: str) -> None:
    """Outcome, text, finish, tools and usage; what came first was what the model thought or said first."""
    exchange, answer, said = stage.exchanges[name], stage.answer(name), stage.said[name]
    usage, case = answer.usage, CASES[name]

    assert exchange.outcome == case.outcome
    assert Facts(exchange).parsed.info.model == case.arguments["model"]
    if said.error is not None:
        assert answer.error in said.error
        return
    assert (answer.text, answer.tool_calls) == (said.text, said.calls)
    assert answer.finish_reasons == said.finishes
    if said.usage != (None,) * 5:  # OpenAI's SDK tells nothing of a response that broke off
        counts = usage.prompt, usage.output, usage.cached, usage.reasoning, usage.created
        assert counts == said.usage
    if Facts(exchange).parsed.info.stream:
        assert answer.first_token is not None
        assert answer.first_answer is not None
        if usage.reasoning:  # a busy machine may read both at once
            assert answer.first_token <= answer.first_answer
        else:
            assert answer.first_token == answer.first_answer


@pytest.mark.parametrize("name", LEFT)
def test_who_leaves_early_has_left(stage: Stage, name: str) -> None:
    """A stream that its client did not want to the end is no whole answer, and is not cut either."""
    assert stage.exchanges[name].outcome is Outcome.CLIENT_ABORT
    assert stage.answer(name).first_token is not None


def test_all_of_it_is_sent_again(stage: Stage) -> None:
    """Nothing is left out."""
    assert len(stage.report["samples"]["id"]) == len(stage.exchanges)


@pytest.mark.parametrize("name", [*CASES, *LEFT])
def test_what_is_sent_again_is_answered_alike(stage: Stage, name: str) -> None:
    """By the same outcome and as many tokens; who had left is answered to the end."""
    sample, usage = stage.sample(name), stage.answer(name).usage

    assert sample["outcome"] == ("ok" if name in LEFT else CASES[name].outcome)
    if name not in LEFT:
        assert (sample["prompt_tokens"], sample["output_tokens"]) == (usage.prompt, usage.output)


def test_the_keys_are_not_in_the_trace(stage: Stage) -> None:
    """Only in which header they came: these SDKs, of version 2 and 3, have them in the same one."""
    requests = [exchange.request for exchange in stage.exchanges.values()]

    assert {request.extra["credential_header"] for request in requests} == {"authorization"}
    assert not any(key in str(stage.exchanges) for key in {case.key for case in CASES.values()})
