"""Hit rates: the share of prompt tokens that a cache of prefixes gave, as planned, as served, as recorded.

A perfect cache holds the prefix of every prompt that was planned before, in whole blocks, and nothing else:
what it would serve can be known without any server. What the target served, and what was served when the
traffic was recorded, the answers say. A target that serves less than planned has a small cache, or several
that do not share; one that serves more knew prompts of an earlier run. The trace is read once more when the
run is over, so that no sender waits for any of this.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

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
PICTURE_BYTES: Final = 1_600 * TOKEN_BYTES
"""What stands for a picture or a file, however many bytes it has."""
LAST_TURN: Final = 10
"""The row of this turn has all later ones as well."""


class Prefixes:
    """The prompts that were planned so far: their messages, and the blocks of these. `bytes` were new."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self.bytes = 0

    def add(self, whose: object, pieces: Iterable[bytes]) -> float:
        """Take a prompt in the cache of `whose`: the share of it that begins as an earlier one of it did."""
        shared = total = 0
        link, follows = hash(whose), True
        for piece in pieces:
            before, link = link, hash((link, piece))
            total += len(piece)
            if link in self._known:
                begun = len(piece)
            else:
                begun = self._blocks(before, piece)
                self._known.add(link)
                self.bytes += len(piece)
            shared += begun if follows else 0
            follows = follows and begun == len(piece)
        return shared / total if total else 0.0

    def _blocks(self, link: int, piece: bytes) -> int:
        """Take the blocks of a new piece: how many bytes of it an earlier one had behind the same prefix."""
        step, known = BLOCK_TOKENS * TOKEN_BYTES, self._known
        begun, follows = 0, True
        for start in range(0, len(piece) - step + 1, step):
            link = hash((link, piece[start : start + step], "block"))
            follows = follows and link in known
            begun += step if follows else 0
            known.add(link)
        return begun


def pieces_of(payload: Mapping[str, Any], provider: Provider) -> Iterator[bytes]:
    """A prompt about as templates write it: the tools, each message, the head of the answer."""
    for name in ("tools", "functions"):
        if tools := payload.get(name):
            yield orjson.dumps(tools)
    messages = provider.messages(payload)
    for message in messages:
        content = message.get("content")
        rest = {name: value for name, value in message.items() if name not in ("role", "content")}
        parts = [*(content if isinstance(content, list) else [content]), rest or None]
        role = str(message.get("role")).encode("utf-8", "replace")
        yield role.ljust(HEADER_BYTES) + b"".join(map(_as_read, parts))
    yield bytes(HEADER_BYTES) if messages else _as_read(payload.get("prompt"))


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


@dataclass(kw_only=True)
class _Tokens:
    """Sums over the requests that the target counted; the `recorded` ones where those were counted, too."""

    requests: int = 0
    prompt: int = 0
    planned: int = 0
    served: int = 0
    recorded_prompt: int = 0
    recorded: int = 0

    def add(self, share: float, served: Usage, recorded: Usage) -> None:
        prompt = served.prompt or 0
        self.requests += 1
        self.prompt += prompt
        self.planned += int(share * prompt) // BLOCK_TOKENS * BLOCK_TOKENS
        self.served += served.cached or 0
        if recorded.prompt:
            self.recorded_prompt += recorded.prompt
            self.recorded += recorded.cached or 0

    def rates(self, *, served: bool, recorded: bool) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt,
            "planned": self.planned / self.prompt,
            "served": self.served / self.prompt if served else None,
            "recorded": self.recorded / self.recorded_prompt
            if recorded and self.recorded_prompt
            else None,
        }


def hit_rates(
    plan: Iterable[Planned], target: Target, usage: Mapping[int, Usage]
) -> dict[str, Any] | None:
    """The rates of a run's first requests, together and by the number of the turn; None without any count.

    Args:
        plan: the requests in the order of the run, with their recorded answers.
        target: what they were sent to, by which their prompts are as sent, salts and all.
        usage: what the target counted for each that succeeded, by its index.

    Rates are shares of the prompt tokens that the target counted. `served` and `recorded` are None where no
    answer named cached tokens: servers leave the member out where it would be 0, or always.
    """
    prefixes, turns = Prefixes(), Counter[tuple[int, int, int]]()
    every, by_turn = _Tokens(), defaultdict[int, _Tokens](_Tokens)
    reported = {"served": False, "recorded": False}
    for planned in islice(plan, OBSERVED):
        if prefixes.bytes > MOST_BYTES:
            break
        payload, sent = planned.payload, target.outgoing(planned)
        if payload is None or sent.info.endpoint not in GENERATIVE:
            continue
        if sent.body is not planned.exchange.request.body:
            payload = orjson.loads(sent.body)
        provider = provider_of(planned.exchange.request.method, sent.path)
        whose = (sent.info.model, *(str(payload.get(name)) for name in provider.salt_fields))
        share = prefixes.add(whose, pieces_of(payload, provider))
        conversation = planned.session, planned.cycle, planned.clone
        turns[conversation] += 1
        counted, recorded = usage.get(planned.index), recorded_usage(planned.exchange)
        if counted is None or not counted.prompt:
            continue
        reported["served"] |= counted.cached is not None
        reported["recorded"] |= recorded.cached is not None
        for sums in (every, by_turn[min(turns[conversation], LAST_TURN)]):
            sums.add(share, counted, recorded)
    if not every.requests:
        return None
    rows = [{"turn": turn, **by_turn[turn].rates(**reported)} for turn in sorted(by_turn)]
    return {**every.rates(**reported), "turns": rows}
