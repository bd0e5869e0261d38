"""Ask: what a request wants of the model, read from its path and body."""

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tbench.capture.exchange import Outcome
from tbench.capture.providers.together import INFERENCE

GENERATIVE: Final = frozenset({"chat", "completions"})
"""The endpoints that one and the same text model serves."""


class RequestInfo(NamedTuple):
    """One request in the words of its API. What it does not say is None, or the API's default.

    `endpoint` is chat, completions, embeddings, rerank, images, audio, models or other. `n` is how many
    answers are wanted. `inputs` counts messages, prompts, embedding inputs or rerank documents, `images`
    the pictures among them. `replayable` means stateless inference: sending it again costs tokens and
    changes nothing.
    """

    endpoint: str = "other"
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    inputs: int = 0
    images: int = 0
    replayable: bool = False


# Answer: what came back, in the words of its API, and the verdict on it.

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
class ParsedResponse:
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


def judge(status: int, answer: ParsedResponse, *, endpoint: str) -> Outcome:
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


# What a server complains about: one line out of any error body, short and without secrets.

LONGEST = 200

_MARKUP = re.compile(
    r"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE
)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_HIDDEN = (
    (re.compile(r"\b(bearer|basic)\s+[^\s\"',;]+", re.IGNORECASE), r"\1 ***"),
    (
        re.compile(
            r"(\b(?:(?:api|secret|access|auth)[ _-]?(?:key|token)|secret|password)"
            r"(?: provided)?[\"']?\s*[:=]\s*)[\"']?[^\s\"',;]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (re.compile(r"\b(?:sk|pk|rk|gsk|tgp|fw|hf|r8|xai|key|AIza|eyJ)[-_A-Za-z0-9.*]{10,}"), "***"),
)
_TOKEN = re.compile(r"[A-Za-z0-9_\-+/=]{20,}")
_WORD = re.compile(r"[a-z]{7}")
_RUN = re.compile(r"[A-Za-z0-9]{20,}")


def complaint(payload: object) -> str | None:
    """The message in an error body, or None where it holds no error.

    Args:
        payload: decoded JSON: `{"error": {"message"}}`, `{"error": "text"}`, `{"message"}`,
            `{"detail"}`, `{"errors": [...]}`; or a string.
    """
    return one_line(text) if (text := _message(payload)) else None


def one_line(text: str) -> str:
    """A text for people: markup dropped, white space joined, secrets masked, at most 200 characters."""
    if title := _TITLE.search(text):
        text = title[1]
    text = " ".join(_MARKUP.sub(" ", text[:20_000]).split())
    text = masked(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def masked(text: str) -> str:
    """The text with everything that looks like a credential replaced by `***`."""
    for pattern, mask in _HIDDEN:
        text = pattern.sub(mask, text)
    return _TOKEN.sub(lambda match: "***" if _random(match[0]) else match[0], text)


def _random(token: str) -> bool:
    """Whether a long token looks drawn rather than named: model names hold words, keys do not."""
    if not any(char.isdigit() for char in token):
        return False
    if any(any(c.isdigit() for c in run) for run in _RUN.findall(token)):
        return True
    return len(token) >= 32 and not _WORD.search(token)


def _message(payload: object) -> str | None:
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        return next((text for item in payload if (text := _message(item))), None)
    if not isinstance(payload, dict):
        return None
    keys = ("error", "message", "detail", "errors", "msg", "error_type", "type", "code")
    return next((text for key in keys if (text := _message(payload.get(key)))), None)
