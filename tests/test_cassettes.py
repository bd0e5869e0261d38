"""The recorded answers of the simulator: the SDKs and our own reader must understand them alike."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tbench.capture.providers import ParsedResponse, outcome_of, parse_response

pytest.importorskip("anthropic", reason="the SDK is an extra of the tests")
ROOT = Path(__file__).parent.parent
RECORDER = runpy.run_path(str(ROOT / "fixtures" / "record_cassettes.py"))
CASES: dict[str, Any] = RECORDER["CASES"]
TAPES = sorted((ROOT / "fixtures" / "cassettes").glob("*.yaml"))
PAIRS: list[tuple[str, str]] = RECORDER["PAIRS"]
EVERY = pytest.mark.parametrize(("sdk", "name"), PAIRS)


def drive(sdk: str, name: str) -> Any:
    """What the SDK makes of the recorded answer; nothing leaves the process."""
    with RECORDER["cassette"](sdk, name, "none") as tape:
        said = RECORDER["drive"](sdk, CASES[name])
        assert tape.play_count == 1
    return said


def response_of(sdk: str, name: str) -> Any:
    tape = yaml.safe_load((RECORDER["FOLDER"] / f"{sdk}-{name}.yaml").read_text())
    (interaction,) = tape["interactions"]
    return interaction["response"]


def read(sdk: str, name: str) -> tuple[int, ParsedResponse]:
    """What our reader makes of the same bytes, cut into pieces of seven."""
    response = response_of(sdk, name)
    body, status = response["body"]["string"], response["status"]["code"]
    raw = body if isinstance(body, bytes) else body.encode()
    pieces = [(float(at), raw[at : at + 7]) for at in range(0, len(raw), 7)]
    kind = response["headers"]["content-type"][0]
    return status, parse_response(pieces, content_type=kind, status=status)


@EVERY
def test_our_reader_agrees_with_the_sdk(sdk: str, name: str) -> None:
    """Text, finish reasons, usage and tool calls are the same, from the same recorded bytes."""
    said, (_, answer) = drive(sdk, name), read(sdk, name)
    usage = answer.usage

    if said.error is None:
        assert answer.error is None
        assert answer.text == said.text
        assert answer.finish_reasons == said.finishes
        assert answer.tool_calls == said.calls
        if said.usage != (None,) * 5:  # OpenAI's SDK tells nothing of a response that broke off
            counts = usage.prompt, usage.output, usage.cached, usage.reasoning, usage.created
            assert counts == said.usage
    else:
        assert answer.error
        told = said.error.removeprefix("Error code: ")  # all that openai says of a page
        assert answer.error in told or told in answer.error


@EVERY
def test_the_verdict_is_the_case_s(sdk: str, name: str) -> None:
    """Errors by status, errors in the stream and streams without an end are told apart."""
    status, answer = read(sdk, name)

    outcome = outcome_of(status, answer, endpoint="chat")
    assert outcome == CASES[name].outcome


def test_each_case_has_its_cassette_and_each_cassette_its_case() -> None:
    """Nothing is left over from an earlier recording."""
    wanted = {f"{sdk}-{name}" for sdk, name in PAIRS}

    assert {path.stem for path in TAPES} == wanted


@pytest.mark.parametrize("path", TAPES, ids=lambda path: path.stem)
def test_no_credential_and_no_trace_of_the_machine_is_recorded(path: Path) -> None:
    """Neither the key nor the headers that describe the recording computer."""
    text = path.read_text().lower()

    for secret in (
        "authorization",
        "x-api-key",
        "bearer",
        "sk-recorded",
        "bad-key",
        "stainless",
        "user-agent",
    ):
        assert secret not in text
