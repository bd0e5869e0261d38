"""Hit rates: the share of prompt tokens that a cache of prefixes gave, as planned, as served, as recorded.

A perfect cache holds the prefix of every prompt that was sent before, in whole blocks, and nothing else:
what it would serve can be known without any server. It shares what is still being read; a cache that holds
a prompt only when its answer has begun serves less where prompts overlap, and that can be known, too. What
the target served, and what was served when the traffic was recorded, the answers say. A target that serves
less than either has a small cache, or several that do not share; one that serves more knew prompts of an
earlier run. The trace is read once more when the run is over, so that no sender waits for any of this.
"""

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.providers import GENERATIVE, Provider, Usage, provider_of
from tbench.replay.plan import Planned, recorded_usage
from tbench.replay.target import Target

OBSERVED: Final = 2_000
"""So many requests of a run are looked at, its first: reading them and their answers takes about a second,"""
MOST_BYTES: Final = 32 * 2**20
"""and their prompts until so much in them was new, which bounds the memory."""
BLOCK_TOKENS: Final = 16
"""A cache keeps whole blocks of so many tokens, as vLLM's does."""
TOKEN_BYTES: Final = 4
HEADER_BYTES: Final = 16
"""What a template writes around a message: its role and marks."""
ANSWER_HEAD: Final = b"assistant".ljust(HEADER_BYTES)
"""With which a prompt ends; the next one of its conversation goes on with the answer."""
PICTURE_BYTES: Final = 1_600 * TOKEN_BYTES
"""What stands for a picture or a file, however many bytes it has."""
CLOSE: Final = 0.02
"""Rates agree that are no further apart."""
LAST_TURN: Final = 10
"""The row of this turn has all later ones as well."""


class Prefixes:
    """The prompts that caches hold, one of each model and salt (`whose`).

    Behind each prefix, by its hash, stand the messages that follow it, sorted.
    """

    def __init__(self) -> None:
        self._behind: dict[int, list[bytes]] = {}

    def shared(self, whose: object, pieces: Iterable[bytes]) -> int:
        """With how many bytes a prompt begins as one does which the cache of `whose` holds."""
        begun, link = 0, hash(whose)
        for piece in pieces:
            held = self._behind.get(link, ())
            place = bisect_left(held, piece)
            if held[place : place + 1] != [piece]:
                # No other has more of its beginning than those between which it belongs.
                beside = held[max(place - 1, 0) : place + 1]
                return begun + max((_alike(piece, other) for other in beside), default=0)
            begun += len(piece)
            link = hash((link, piece))
        return begun

    def add(self, whose: object, pieces: Iterable[bytes]) -> None:
        """Hold a prompt in the cache of `whose`."""
        link = hash(whose)
        for piece in pieces:
            held = self._behind.setdefault(link, [])
            place = bisect_left(held, piece)
            if held[place : place + 1] != [piece]:
                held.insert(place, piece)
            link = hash((link, piece))


def _alike(piece: bytes, other: bytes) -> int:
    """How many bytes two texts begin with alike."""
    size = min(len(piece), len(other))
    parted = int.from_bytes(piece[:size]) ^ int.from_bytes(other[:size])
    return size - (parted.bit_length() + 7) // 8


def pieces_of(payload: Mapping[str, Any], provider: Provider) -> Iterator[bytes]:
    """A prompt about as templates write it: the tools, each message, the head of the answer.

    In whole tokens: a template's mark ends a text, and with it the text's last token.
    """
    for name in ("tools", "functions"):
        if tools := payload.get(name):
            yield _in_tokens(orjson.dumps(tools))
    messages = provider.messages(payload)
    for message in messages:
        content = message.get("content")
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        parts = [*(content if isinstance(content, list) else [content]), rest or None]
        role = str(message.get("role")).encode("utf-8", "replace")
        yield role.ljust(HEADER_BYTES) + _in_tokens(b"".join(map(_as_read, parts)))
    yield ANSWER_HEAD if messages else _as_read(payload.get("prompt"))


def _each_prompt(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A body for each prompt of a completion that has several, which share a cache as any others do."""
    prompt = payload.get("prompt")
    if isinstance(prompt, list) and any(isinstance(text, str | list) for text in prompt):
        return [{**payload, "prompt": text} for text in prompt]
    return [payload]


def _in_tokens(text: bytes) -> bytes:
    return text.ljust(math.ceil(len(text) / TOKEN_BYTES) * TOKEN_BYTES, b"\0")


def _as_read(part: object) -> bytes:
    """What a model reads of a part: its text, a stand-in for a picture, else its JSON."""
    text = part.get("text") if isinstance(part, dict) else part
    if isinstance(text, str):
        return text.encode("utf-8", "replace")
    if isinstance(part, dict) and any(kind in str(part.get("type")) for kind in _PICTURES):
        name = blake2b(orjson.dumps(part), digest_size=TOKEN_BYTES).digest()
        return name * (PICTURE_BYTES // TOKEN_BYTES)
    return b"" if part is None else orjson.dumps(part)


_PICTURES: Final = ("image", "audio", "file", "document")


class Reading(NamedTuple):
    """When a prompt was sent, when it had certainly been read, and what the target counted of it.

    Seconds from the run's start; it had been read when the first token came, or the whole answer without a
    stream, and never (inf) where the request failed before that. `usage` is None of what failed.
    """

    sent: float
    read: float
    usage: Usage | None


class _Prompt(NamedTuple):
    """A request's prompts as they were sent, into the cache of `whose`; of which turn, and their counts.

    A completion may have several prompts, which are counted together.
    """

    whose: object
    texts: Sequence[Sequence[bytes]]
    turn: int
    reading: Reading
    recorded: Usage


@dataclass(kw_only=True)
class _Tokens:
    """Sums over the requests that the target counted; the `recorded` ones where those were counted, too."""

    requests: int = 0
    prompt: int = 0
    planned: int = 0
    planned_least: int = 0
    served: int = 0
    recorded_prompt: int = 0
    recorded: int = 0

    def add(self, share: Fraction, least: Fraction, served: Usage, recorded: Usage) -> None:
        prompt = served.prompt or 0
        self.requests += 1
        self.prompt += prompt
        # The share is of bytes, the prompt in tokens: what comes out is cut to the blocks that a cache has.
        self.planned += int(share * prompt) // BLOCK_TOKENS * BLOCK_TOKENS
        self.planned_least += int(least * prompt) // BLOCK_TOKENS * BLOCK_TOKENS
        self.served += served.cached or 0
        if recorded.prompt:
            self.recorded_prompt += recorded.prompt
            self.recorded += recorded.cached or 0

    def rates(self, *, served: bool, recorded: bool) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt,
            "planned": self.planned / self.prompt,
            "planned_least": self.planned_least / self.prompt,
            "served": self.served / self.prompt if served else None,
            "recorded": self.recorded / self.recorded_prompt
            if recorded and self.recorded_prompt
            else None,
        }


def hit_rates(
    plan: Iterable[Planned], target: Target, readings: Mapping[int, Reading]
) -> dict[str, Any] | None:
    """The rates of a run's first requests, together and by the number of the turn; None without any count.

    Args:
        plan: the requests in the order of the run, with their recorded answers.
        target: what they were sent to, by which their prompts are as sent, salts and all.
        readings: of each that was sent, by its index.

    Rates are shares of the prompt tokens that the target counted. `planned` is that of a cache which has a
    prompt when it is sent, `planned_least` of one which has it when it has certainly been read. `served` and
    `recorded` are None where no answer named cached tokens: servers leave the member out where it would be
    0, or always.
    """
    prompts = list(_prompts(plan, target, readings))
    shares = _shares(prompts, lambda place: (prompts[place].reading.sent, place))
    # Before any that is sent at the very moment.
    leasts = _shares(prompts, lambda place: (prompts[place].reading.read, -1))
    every, by_turn = _Tokens(), defaultdict[int, _Tokens](_Tokens)
    reported = {"served": False, "recorded": False}
    for prompt, share, least in zip(prompts, shares, leasts, strict=True):
        counted, recorded = prompt.reading.usage, prompt.recorded
        if counted is None or not counted.prompt:
            continue
        reported["served"] |= counted.cached is not None
        reported["recorded"] |= recorded.cached is not None
        for sums in (every, by_turn[prompt.turn]):
            sums.add(share, least, counted, recorded)
    if not every.requests:
        return None
    rows = [{"turn": turn, **by_turn[turn].rates(**reported)} for turn in sorted(by_turn)]
    return {**every.rates(**reported), "turns": rows}


def _prompts(
    plan: Iterable[Planned], target: Target, readings: Mapping[int, Reading]
) -> Iterator[_Prompt]:
    """The first prompts of a plan that were sent."""
    texts, new = dict[bytes, bytes](), 0  # most messages come again in each later turn
    turns = Counter[tuple[int, int, int]]()
    for planned in islice(plan, OBSERVED):
        if new > MOST_BYTES:
            break
        payload, sent = planned.payload, target.outgoing(planned)
        if payload is None or sent.info.endpoint not in GENERATIVE:
            continue
        conversation = planned.session, planned.cycle, planned.clone
        turns[conversation] += 1
        reading = readings.get(planned.index)
        if reading is None:
            continue
        # By identity, as the target gives the recorded body
        # back where it changed nothing; that is parsed already.
        if sent.body is not planned.exchange.request.body:
            payload = orjson.loads(sent.body)
        provider = provider_of(planned.exchange.request.method, sent.path)
        prompts = []
        for body in _each_prompt(payload):
            pieces = []
            for piece in pieces_of(body, provider):
                new += len(piece) if piece not in texts else 0
                # One object for equal messages: each turn repeats all
                # before it, and bytes keep the hash that was made of them.
                pieces.append(texts.setdefault(piece, piece))
            prompts.append(pieces)
        yield _Prompt(
            whose=(sent.info.model, *(str(payload.get(name)) for name in provider.salt_fields)),
            texts=prompts,
            turn=min(turns[conversation], LAST_TURN),
            reading=reading,
            recorded=recorded_usage(planned.exchange),
        )


def _shares(prompts: Sequence[_Prompt], held: Callable[[int], tuple[float, int]]) -> list[Fraction]:
    """The share of each that a cache has when it is sent, which has the one at a place from `held(place)` on.

    That is a time, and the place among those of one time: a prompt is sent in its own.
    """
    cache, shares = Prefixes(), [Fraction(0)] * len(prompts)
    events = [(prompt.reading.sent, place, False, place) for place, prompt in enumerate(prompts)]
    events += [(*held(place), True, place) for place in range(len(prompts))]
    # False sorts before True: a prompt is asked for before it is there itself.
    for _, _, adds, place in sorted(events):
        whose, texts = prompts[place][:2]
        if adds:
            for pieces in texts:
                cache.add(whose, pieces)
        else:
            size = sum(map(len, chain.from_iterable(texts)))
            shared = sum(cache.shared(whose, pieces) for pieces in texts)
            shares[place] = Fraction(shared, size or 1)
    return shares
