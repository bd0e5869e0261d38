"""Exchanges of calls: the request as it goes into a trace, and the answer with the times that are known.

Bodies lose what a capture would not have kept: credentials, identities, headers not on the allowlist. Where
the log has sizes alone, prompts of so many tokens are written, which share text as they share hash ids.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import Any, Final
from urllib.parse import quote

import orjson

from tbench.capture.exchange import Chunk, Exchange, Headers, Outcome, Request, Response
from tbench.capture.importers.importer import CHAT, EMBEDDINGS, Call, Lengths, dumped
from tbench.capture.providers import Usage, parse_response
from tbench.capture.providers import endpoint_of as provider_endpoint
from tbench.capture.redact import Redactor, safe_path, secrets_of
from tbench.capture.sanitize import Retries, Sanitizer
from tbench.capture.sessions import Recent
from tbench.capture.synthesis.content import Prompts, RequestContent, Wanted
from tbench.capture.synthesis.generate import Arrivals, body, endpoint_of
from tbench.capture.synthesis.options import Api
from tbench.capture.synthesis.scenario import Task
from tbench.capture.synthesis.tokens import Tokens

# Texts for requests of which only the size is known.

REMEMBERED: Final = 8192
"""Blocks whose text is kept; another is written again when it is needed, and comes out the same."""
FORMS: Final[Mapping[str, tuple[Task, Api]]] = {
    "messages": ("text-to-text", "messages"),
    "responses": ("text-to-text", "responses"),
    "embeddings": ("text-to-embeddings", "chat"),
}
"""How the bodies of endpoints are written, by name; all others take a chat's."""
PAGE: Final = 4096
"""Tokens of the text that bodies of a known number of bytes are cut from."""


class Writer:
    """Writes prompts of known sizes, the same for the same seed.

    An id stands for its block and everything before it: equal ids make equal text, in every request and run.
    """

    def __init__(self, tokens: Tokens, block_tokens: int, seed: int) -> None:
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._seed = seed
        self._random = Random(f"{seed} words")
        self._blocks: Recent[int, str] = Recent(REMEMBERED)
        self._prompts: Prompts | None = None

    def bodies(self, calls: Sequence[Call], model: str) -> Iterator[tuple[bytes, Headers]]:
        """For each call whose body is a length what its endpoint takes, and the headers that this demands.

        Raises InputError where a tokenizer allows no such length.
        """
        calls = [call for call in calls if isinstance(call.body, Lengths)]
        lengths = [call.body for call in calls if isinstance(call.body, Lengths)]
        if not lengths:
            return
        self._prompts = self._prompts or Prompts(self._tokens)
        plain = [Wanted(length.prompt) for length in lengths if not length.blocks and length.prompt]
        texts = iter(self._prompts.write(plain, self._random))
        for call, length in zip(calls, lengths, strict=True):
            asked = call.model or model
            if length.blocks:
                text = self._prefixed(self._prompts, length)
            elif length.prompt:
                text = next(texts)
            else:
                room = (length.body_bytes or 0) - len(_written(call, asked, "", length)[0])
                text = self._page(self._prompts, max(room, 1))
            yield _written(call, asked, text, length)

    def _page(self, prompts: Prompts, size: int) -> str:
        """A text of so many bytes, in JSON as well."""
        (page,) = prompts.write([Wanted(PAGE)], self._random)
        plain = page.encode("ascii", "ignore").decode()
        plain = "".join(
            letter if letter.isprintable() and letter not in '"\\' else " " for letter in plain
        )
        return (plain * (size // len(plain) + 1))[:size]

    def _prefixed(self, prompts: Prompts, length: Lengths) -> str:
        """The text of full blocks, then of the last one as far as it goes."""
        head = ""
        for number in length.blocks[:-1]:
            text = self._blocks.get(number)
            if text is None:
                rng = Random(f"{self._seed} block {number}")
                (text,) = prompts.write([Wanted(self._block_tokens)], rng)
            self._blocks.keep(number, text)
            head += text
        used = prompts.count(head) if head else 0
        while used >= length.prompt:  # a tokenizer joins blocks otherwise than it counts them
            head = head.rpartition(" ")[0]
            used = prompts.count(head) if head else 0
        rng = Random(f"{self._seed} block {length.blocks[-1]}")
        (text,) = prompts.write([Wanted(length.prompt, head, used)], rng)
        return text


def _written(call: Call, model: str, text: str, length: Lengths) -> tuple[bytes, Headers]:
    """The body that says this, as the call's endpoint takes it, and the headers that its API demands."""
    name = provider_endpoint(call.method, call.path.partition("?")[0]).name
    task, api = FORMS.get(name, ("text-to-text", "chat"))
    content = RequestContent(texts=[text], input=length.prompt, output=length.output)
    data = body(task, model, content, {}, api)
    if name == "completions":
        chat: dict[str, Any] = orjson.loads(data)
        del chat["messages"]
        data = dumped({**chat, "prompt": text})
    return data, endpoint_of(task, api).headers


# Exchanges.

NOWHERE: Final = "imported.invalid"
"""The host of requests whose log names none: a name that no resolver knows."""
_URL = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?:[^/?#@]*@)*"
    r"([^/?#@\s:\x00-\x1f\x7f\[\]]+(?::\d+)?|\[[0-9a-f:.]+\](?::\d+)?)?([/?#].*)?",
    re.IGNORECASE | re.DOTALL,
)
"""Of a URL or a part of one, less whoever was named in it: the host with its port, and what follows."""
FIRST_FAILURE: Final = 300
"""The least HTTP status of a failure: nobody follows a redirect."""
BY_STATUS: Final = frozenset({Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR, Outcome.CLIENT_LIMIT})
"""Outcomes that an answer's status says itself, or that no answer has."""
BEGUN: Final = frozenset({Outcome.CUT, Outcome.STREAM_ERROR})
"""Outcomes that only an answer has."""
ANSWERS: Final = frozenset(
    {"choices", "output", "data", "results", "stop_reason", "error", "embeddings"}
)
"""Members by which a JSON object is an API's whole answer, and not one message."""
DETAILS: Final = (
    ("prompt_tokens_details", "cached_tokens"),
    ("completion_tokens_details", "reasoning_tokens"),
    ("input_tokens_details", "cache_write_tokens"),
)
"""Where an answer has the parts of Usage, in its order; the last as in Responses, as chat has none."""


class ExchangeMaker:
    """Makes exchanges of calls, with what a capture would have left out of them.

    `texts` writes the prompts that a log does not have, `arrivals` space what it has no times for. Times
    count from `origin_ns`; with `tick_ns` arrivals are drawn within that tick, by `seed`. `name` makes ids
    unique.
    """

    def __init__(
        self,
        texts: Writer,
        arrivals: Arrivals,
        *,
        model: str,
        name: str,
        origin_ns: int,
        tick_ns: int | None,
        seed: int,
    ) -> None:
        self._texts, self._model, self._name = texts, model, name
        self._even = arrivals.times(seed)
        self._origin = origin_ns
        self._tick, self._spread = tick_ns, Random(f"{seed} spread")
        self._redactor, self._retries = Redactor(), Retries()
        self._number = 0

    def exchanges(self, calls: Sequence[Call]) -> Iterator[Exchange]:
        """The exchanges of a few calls, in order."""
        written = self._texts.bodies(calls, self._model)
        for call in calls:
            if isinstance(call.body, Lengths):
                data, headers = next(written)
                call = replace(call, headers=(*call.headers, *headers))  # noqa: PLW2901
                yield self._exchange(call, data, ours=True)
            else:
                data = dumped(call.body) if isinstance(call.body, Mapping) else call.body
                yield self._exchange(call, data, ours=False)

    def _exchange(self, call: Call, body: bytes, *, ours: bool) -> Exchange:
        arrive = next(self._even) if call.arrive_ns is None else call.arrive_ns - self._origin
        arrive += self._spread.randrange(self._tick) if self._tick else 0
        call = replace(call, path=_path(call.path))
        secrets = secrets_of(call.headers, call.path)
        headers, withheld = self._redactor.headers(call.headers, secrets)
        if not any(name == "content-type" for name, _ in headers):
            headers += (("content-type", "application/json"),)
        if call.session is not None:
            headers += (("x-session-id", self._redactor.pseudonym(call.session)),)
        extra: dict[str, Any] = {}
        if (
            call.end_ns is None
        ):  # its answer is in no trace: what the log, or the answer's bytes, counted is
            usage = call.usage
            if usage == Usage() and isinstance(call.answer, bytes):
                timed = [(0.0, call.answer)]
                usage = parse_response(timed, content_type=call.answer_type).usage
            extra = {"prompt_tokens": usage.prompt, "output_tokens": usage.output}
        address = _URL.fullmatch(call.host or "")  # which may have a key in it
        request = Request(
            id=blake2b(f"{self._name} {self._number}".encode(), digest_size=16).hexdigest(),
            seq=self._number,
            arrive_ns=arrive,
            end_ns=arrive,
            method=call.method,
            scheme=call.scheme,
            host=(address and address[1]) or NOWHERE,
            path=safe_path(call.path, secrets),
            headers=headers,
            headers_withheld=withheld,
            body=body,
            body_bytes=len(body),
            extra=extra,
        )
        self._number += 1
        response = _response(call, arrive)
        if ours:
            return Exchange(request=request, response=response)
        # A sanitizer for each exchange: one for all would wait for answers that the log does not have.
        sanitizer = Sanitizer(self._redactor, retries=self._retries)
        request = sanitizer.request(request, secrets)
        if response is not None:
            response = sanitizer.response(request.id, response, None, secrets)
        return Exchange(request=request, response=response)


def _path(address: str) -> str:
    """The path and query of a URL or of a part of one, as a request line takes them."""
    path = address
    if "://" in address and (match := _URL.fullmatch(address)):
        path = match[2] or ""
    path = quote(path, safe="!#$%&'()*+,/:;=?@[]~", errors="replace")
    return path if path.startswith("/") else f"/{path}"


def _response(call: Call, arrive: int) -> Response | None:
    """What came back, with the times that are known; None where the log does not say when it ended."""
    if call.end_ns is None or call.arrive_ns is None:
        return None
    end = arrive + call.end_ns - call.arrive_ns
    body = _answer(call)
    chunks: tuple[Chunk, ...] = (Chunk(end, len(body)),) if body else ()
    known = "end"
    if call.first_token_ns is not None and len(body) > 1:
        first = arrive + call.first_token_ns - call.arrive_ns
        chunks, known = (Chunk(first, 1), Chunk(end, len(body) - 1)), "first_token"
    status, outcome = _ending(call)
    return Response(
        head_ns=None,
        end_ns=end,
        status=status,
        headers=(("content-type", call.answer_type),) if body else (),
        body=body or None,
        body_bytes=len(body),
        chunks=chunks,
        outcome=outcome,
        error=call.failure,
        extra={"known_times": known, "body_made": not isinstance(call.answer, bytes)},
    )


def _ending(call: Call) -> tuple[int | None, Outcome]:
    """The status of an answer, None where none is known, and the outcome: what the log says, if it can be.

    A failure that a log tells no more of is taken for a refusal; for a cut, where it has some of an answer.
    """
    failed = call.failure is not None or call.outcome is not None
    status = call.status or (None if failed and not call.answer else 200)
    if status is None:
        outcome = Outcome.RESET if call.outcome in BEGUN else call.outcome
        return None, outcome or Outcome.HTTP_ERROR
    outcome = Outcome.CUT if call.outcome is Outcome.RESET else call.outcome
    if outcome is not None and outcome not in BY_STATUS:
        return status, outcome
    if status >= FIRST_FAILURE:
        return status, Outcome.HTTP_ERROR
    return status, Outcome.OK if call.failure is None else Outcome.CUT


def _answer(call: Call) -> bytes:
    """The answer's bytes, or an answer of OpenAI's API that says what the log says; empty for none."""
    answer = call.answer
    if isinstance(answer, bytes):
        return answer
    status, outcome = _ending(call)
    usage: dict[str, Any] = {}
    # A refusal was not worked on: what a log counts of it is its own estimate.
    if call.usage != Usage() and outcome is not Outcome.HTTP_ERROR:
        usage = {"prompt_tokens": call.usage.prompt, "completion_tokens": call.usage.output}
        for place, tokens in zip(DETAILS, call.usage[2:], strict=True):
            usage |= {} if tokens is None else {place[0]: {place[1]: tokens}}
    if isinstance(answer, Mapping) and answer.keys() & ANSWERS:
        return dumped(answer if answer.get("usage") or not usage else {**answer, "usage": usage})
    if status is None:
        return b""
    if outcome is Outcome.HTTP_ERROR:
        return b"" if answer is None else dumped({"error": answer})
    if answer is None and not usage and call.first_token_ns is None:
        return b""
    if isinstance(answer, Mapping) and not answer.keys() & {"role", "content", "tool_calls"}:
        answer = dumped(answer).decode()
    message = {"role": "assistant", "content": answer or ""}
    if isinstance(answer, Mapping):
        message = {"role": "assistant", **answer}
    payload: dict[str, Any] = {"object": "list", "data": []}
    if not call.path.endswith(EMBEDDINGS):
        choice = {"message": message} if call.path == CHAT else {"text": answer, "message": message}
        payload = {
            "object": "chat.completion",
            "choices": [{"index": 0, **choice, "finish_reason": call.finish_reason}],
        }
    named_model = {"model": call.model} if call.model else {}
    return dumped({**payload, **named_model, "usage": usage})
