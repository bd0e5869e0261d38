"""Answer: what came back, in the words of its API, and the verdict on it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from tbench.capture.exchange import Outcome
from tbench.capture.providers.together import INFERENCE

UPGRADED, FIRST_SUCCESS, FIRST_REDIRECT, NOT_MODIFIED = 101, 200, 300, 304
"""101: a websocket begins. 304: a list of models is unchanged."""


class Usage(NamedTuple):
    """Token counts as the server states them; None where it says nothing.

    `cached` is a part of `prompt`, `reasoning` a part of `output`.
    """

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None
    reasoning: int | None = None


@dataclass(slots=True, kw_only=True)
class Answer:
    """One response body, read. Nobody changes it; it is not frozen, since a million are made.

    Times are on the caller's clock, each that of the chunk that carried the event's last byte; all are
    absent where nothing was streamed. `first_token` is the first content, reasoning or tool-call delta,
    `first_answer` the first that is not reasoning. `finish_reasons` holds the last one of each choice,
    free strings. `done` means that nothing is missing: `[DONE]`, a finish reason for every choice, or a
    whole body. `readable` is False for a body that is not what was promised. `error` is one line, with
    secrets masked. `text` is the first choice's answer without its reasoning. `streamed` is whether it came
    as events. `foreign` marks what no API that is read here answers with: nothing, a page, lines, audio,
    events of another shape; whether it is whole, only its transport can tell.
    """

    usage: Usage = field(default=Usage())
    finish_reasons: tuple[str, ...] = ()
    first_token: float | None = None
    first_answer: float | None = None
    last_token: float | None = None
    token_times: tuple[float, ...] = ()
    events: int = 0
    tool_calls: int = 0
    done: bool = False
    streamed: bool = False
    foreign: bool = False
    readable: bool = True
    error: str | None = None
    text: str = ""


def judge(status: int, answer: Answer, *, endpoint: str) -> Outcome:
    """The outcome of an exchange whose transport ended cleanly: the one judgement of captures and replays.

    A redirect is an `http_error`: nobody follows it with a prompt in hand. Endpoints other than those of
    inference promise nothing: what they send is whole, unless it says otherwise.
    """
    promised = endpoint in INFERENCE
    if status == UPGRADED or (status == NOT_MODIFIED and not promised):
        return Outcome.OK
    if status >= FIRST_REDIRECT:
        return Outcome.HTTP_ERROR
    taken = answer.foreign and not promised
    if status < FIRST_SUCCESS or not (answer.readable or taken):
        return Outcome.PROTOCOL_ERROR
    if answer.readable and answer.error is not None:
        return Outcome.STREAM_ERROR
    if answer.done or taken:
        return Outcome.OK
    return Outcome.CUT if answer.streamed else Outcome.PROTOCOL_ERROR
