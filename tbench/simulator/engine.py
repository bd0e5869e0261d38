"""A model of a serving engine: first come, first served, continuous batching, chunked prefill.

Prompts share prefixes as in vLLM's: one is looked up in the cache by the step that begins to compute it, and
finds what this step computes of those before it.

It owns its own timeline in seconds and never looks at a clock: `begin` forms the next step and says when
it ends, `finish` says which sequences got a token by then. Same seed and same arrivals, same times.
"""

import math
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.resources import files
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final, get_type_hints

from tbench.capture.errors import InputError
from tbench.simulator.call import known_fault
from tbench.simulator.prompt import BLOCK_TOKENS, PrefixCache


class QueueFullError(Exception):
    """The engine takes no more for now: the server answers 503."""


POSITIVE: Final = ("max_batch", "max_queue", "prefill_tokens_per_s", "chunk_tokens")
"""What an engine has to have some of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How fast the engine is. Times in seconds, rates in tokens per second, sizes in tokens or blocks.

    A step lasts `step_s` + `step_per_sequence_s` for each decoding sequence, times lognormal noise of that
    sigma (mean 1), plus prefill at `prefill_tokens_per_s` of at most `chunk_tokens` prompt tokens.
    """

    max_batch: int = 256
    max_queue: int = 2048
    prefill_tokens_per_s: float = 40_000.0
    chunk_tokens: int = 2048
    step_s: float = 0.008
    step_per_sequence_s: float = 0.00002
    noise: float = 0.05
    cache_blocks: int = 65_536

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise InputError(f"[engine] {name} must be above 0")


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One answer in the making. Times are seconds on the engine's timeline, None until they come.

    `tokens` counts those that are out, of `output_tokens`; an embedding has none and ends with its prefill.
    """

    id: int
    arrived: float
    prompt_tokens: int
    blocks: Sequence[bytes]
    output_tokens: int
    cached_tokens: int = 0
    admitted: float | None = None
    prefill_began: float | None = None
    prefill_ended: float | None = None
    ended: float | None = None
    tokens: int = 0
    to_prefill: int = 0

    @property
    def finished(self) -> bool:
        return self.ended is not None


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of the model: who decodes a token, who has how much prompt computed, from when to when."""

    start: float
    end: float
    decoding: tuple[Work, ...]
    prefilling: tuple[tuple[Work, int], ...]


class Engine:
    """Submit at any time, then `begin` and `finish` one step after the other."""

    def __init__(self, spec: EngineSpec, seed: int) -> None:
        self.spec = spec
        self.cache = PrefixCache(spec.cache_blocks)
        self.free_at = 0.0
        self._rng = Random(seed)
        self._ids = count()
        self._waiting: deque[Work] = deque()
        self._running: list[Work] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def submit(
        self, now: float, prompt_tokens: int, output_tokens: int, blocks: Sequence[bytes] = ()
    ) -> Work:
        """Queue one sequence that arrives now. Raises QueueFullError beyond `max_queue` waiting ones."""
        if len(self._waiting) >= self.spec.max_queue:
            raise QueueFullError
        sequence = Work(
            id=next(self._ids),
            arrived=now,
            prompt_tokens=prompt_tokens,
            blocks=blocks,
            output_tokens=output_tokens,
        )
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Work) -> None:
        """Forget a sequence whose client went away. Its place is free from the next step on."""
        sequence.ended = self.free_at
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        elif sequence in self._running:
            self._running.remove(sequence)

    def begin(self) -> Step | None:
        """Form the next step, as early as can be; None while there is nothing to do."""
        start = self.free_at
        if not self._running:
            if not self._waiting:
                return None
            # An idle engine begins when somebody comes; a busy one when its last step has ended.
            start = max(start, self._waiting[0].arrived)
        spec, left = self.spec, self.spec.chunk_tokens
        prefilling, unread = [], self._unread(start)
        while left and (sequence := next(unread, None)):
            part = min(left, sequence.to_prefill)
            left -= part
            if sequence.prefill_began is None:
                sequence.prefill_began = start
            prefilling.append((sequence, part))
            computed = sequence.prompt_tokens - sequence.to_prefill
            # All of them once, with the last, so that the head is the most recent; each time would take the
            # square of a long prompt.
            first = 0 if part == sequence.to_prefill else computed // BLOCK_TOKENS
            # At once, not at the end of the step: a prompt that this same step admits behind it finds them.
            self.cache.insert(sequence.blocks[first : (computed + part) // BLOCK_TOKENS])
        decoding = tuple(sequence for sequence in self._running if not sequence.to_prefill)
        decode_s = spec.step_s + spec.step_per_sequence_s * len(decoding)
        noise = math.exp(spec.noise * self._rng.gauss() - spec.noise**2 / 2)  # of mean 1
        prefill = spec.chunk_tokens - left
        self.free_at = start + (decode_s * noise + prefill / spec.prefill_tokens_per_s)
        return Step(start, self.free_at, decoding, tuple(prefilling))

    def _unread(self, start: float) -> Iterator[Work]:
        """Whose prompts are not computed: those under way, then those that wait, admitted one by one."""
        yield from [sequence for sequence in self._running if sequence.to_prefill]
        while (
            self._waiting
            and len(self._running) < self.spec.max_batch
            and self._waiting[0].arrived <= start
        ):
            sequence = self._waiting.popleft()
            sequence.admitted = start
            tokens = self.cache.cached_tokens(sequence.blocks, sequence.prompt_tokens)
            sequence.cached_tokens = tokens
            # One at least: without a pass over a token there is
            # nothing to sample the first one of the answer from.
            sequence.to_prefill = max(1, sequence.prompt_tokens - tokens)
            self._running.append(sequence)
            yield sequence

    def finish(self, step: Step) -> list[Work]:
        """The step is over: count its tokens; returns whose state changed, in order of admission."""
        changed = [running for running in step.decoding if not running.finished]
        for sequence, part in step.prefilling:
            sequence.to_prefill -= part
            if not sequence.to_prefill and not sequence.finished:
                sequence.prefill_ended = step.end
                changed.append(sequence)
        for sequence in changed:
            sequence.tokens = min(sequence.tokens + 1, sequence.output_tokens)
            if sequence.tokens == sequence.output_tokens:
                sequence.ended = step.end
        self._running = [running for running in self._running if not running.finished]
        return changed


# What a simulated service is like: one frozen table, read from TOML. Unknown keys are refused.


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Output lengths in tokens: lognormal around the median, within 2 and the maximum.

    They follow from the seed and the prompt alone, so that profiles differ in speed and not in work.
    """

    median: float = 60.0
    sigma: float = 0.5
    maximum: int = 400
    reasoning_median: float = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The service's limits. `requests_per_s` 0 is no limit; `burst` requests may come at once."""

    requests_per_s: float = 0.0
    burst: float = 10.0
    context_tokens: int = 131_072
    embedding_tokens: int = 514
    embedding_dims: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A service: its engine, lengths, limits, and the share of requests that each fault befalls.

    With `early_head` the response head leaves at once instead of with the first token.
    """

    name: str
    engine: EngineSpec = field(default_factory=EngineSpec)
    lengths: Lengths = field(default_factory=Lengths)
    limits: Limits = field(default_factory=Limits)
    faults: Mapping[str, float] = field(default_factory=dict)
    early_head: bool = False


def load_profile(name: str) -> Profile:
    """One of the profiles that come with tbench, by name, or a TOML file by its path."""
    shipped = files("tbench.simulator") / "profiles" / f"{name}.toml"
    path = Path(name)
    if "/" not in name and shipped.is_file():
        return parse_profile(shipped.read_text(), name)
    if not path.is_file():
        raise InputError(f"--profile {name}: no such profile; use fast, slow or a TOML file")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    return parse_profile(text, path.stem, str(path))


def parse_profile(text: str, name: str, where: str | None = None) -> Profile:
    """A profile from TOML text. Raises InputError that names the key at fault."""
    where = where or name
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not TOML: {error}") from None
    kinds = get_type_hints(Profile)
    parts: dict[str, Any] = {
        key: _row(kinds[key], value, f"{where}: [{key}]") if is_dataclass(kinds.get(key)) else value
        for key, value in table.items()
    }
    profile: Profile = _row(Profile, {"name": name, **parts}, where)
    check_faults(profile.faults, where)
    return profile


def check_faults(faults: Mapping[str, float], where: str) -> None:
    """Raises InputError unless each fault exists and the rates are shares that sum to 1 at most."""
    if not isinstance(faults, Mapping):
        raise InputError(f"{where}: faults must be a table")
    for kind, rate in faults.items():
        if not known_fault(kind):
            raise InputError(f"{where}: no such fault: {kind}; see tbench serve --help")
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise InputError(f"{where}: the rate of fault {kind} must be from 0 to 1, not {rate}")
    if sum(faults.values()) > 1:
        raise InputError(f"{where}: the rates of all faults together are above 1")


def _row[T: Profile | Lengths | Limits | EngineSpec](kind: type[T], table: object, where: str) -> T:
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a table")
    kinds = get_type_hints(kind)
    numbers: dict[object, Any] = {int: int, float: int | float}
    for key, value in table.items():
        if key not in kinds:
            known = ", ".join(field.name for field in fields(kind))
            raise InputError(f"{where}: unknown key {key}; known are {known}")
        number = numbers.get(kinds[key])
        sound = not number or (
            isinstance(value, number) and not isinstance(value, bool) and 0 <= value < math.inf
        )
        if not sound:
            form = "a whole number" if number is int else "a finite number"
            least = "from 1" if number is int and key in POSITIVE else "not below 0"
            raise InputError(f"{where}: {key} must be {form} {least}, not {value!r}")
        if kinds[key] is bool and not isinstance(value, bool):  # 'false' would mean true
            raise InputError(f"{where}: {key} must be true or false, not {value!r}")
    return kind(**table)
