"""Form of a run: what its header, progress and totals may hold, looked at once where they are read.

Whoever uses them later may rely on it. Absent (or null) is always fine but where a field is needed; a
field that is not named here may be anything, so that newer writers can add some.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NamedTuple

LARGEST: Final = 2**53
"""Counts and numbers beyond it are no measurement, and a float would round them."""
DEEPEST: Final = 8
"""Levels of maps and lists in each other."""


class Kind(NamedTuple):
    """A value that holds no others: what it is called, and whether one is of it."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Fields:
    """A map with these fields, of which some are `needed`; `filled`: and may not be null."""

    forms: Mapping[str, "Form"]
    needed: frozenset[str] = frozenset()
    filled: bool = False


@dataclass(frozen=True)
class Each:
    """A map of any names, whose values all have one form, and are null only where not `filled`."""

    form: "Form"
    filled: bool = True


@dataclass(frozen=True)
class Items:
    """A list of one form."""

    form: "Form"


Form = Kind | Fields | Each | Items


def _is_count(value: Any) -> bool:  # noqa: ANN401 (what msgpack gives)
    return type(value) is int and 0 <= value <= LARGEST


COUNT: Final = Kind("a count", _is_count)
NUMBER: Final = Kind(
    "a number",
    lambda value: type(value) in (int, float) and isfinite(value) and abs(value) <= LARGEST,
)
TIME: Final = Kind(
    "nanoseconds since 1970", lambda value: type(value) is int and 0 <= value < 2**63
)
TEXT: Final = Kind("a text", lambda value: isinstance(value, str))
FLAG: Final = Kind("true or false", lambda value: isinstance(value, bool))
LOSS: Final = Kind("a count or true", lambda value: isinstance(value, bool) or _is_count(value))
IDENTITY: Final = ("planned", "completed", "failed", "cancelled", "lost_in_flight", "never_sent")

SUMS: Final = frozenset({"requests", "prompt_tokens"})
RATES: Final[Mapping[str, Form]] = {
    **dict.fromkeys(SUMS, COUNT),
    **dict.fromkeys(("planned", "planned_least", "served", "recorded"), NUMBER),
}
HEADER: Final = Fields(
    {
        "run_id": TEXT,
        "wall_ns": TIME,
        "clock": TEXT,
        "trace": Fields(
            {"path": TEXT, "capture_id": TEXT, "files": COUNT, "requests": COUNT, "upstream": TEXT}
        ),
        "pacing": Fields(
            {"mode": TEXT, "value": NUMBER, "clones": NUMBER, "open_loop": FLAG, "meaning": TEXT,
             "until": TEXT}
        ),
        "target": Fields(
            {"base_url": TEXT, "model": TEXT, "sender": TEXT, "api_key_env": TEXT,
             "headers": Items(TEXT), "map_model": Each(TEXT), "match_length": TEXT, "polite": FLAG}
        ),
        "deadlines": Each(NUMBER),
        "experiment": Fields(
            {"arm": TEXT, "round": COUNT, "rounds": COUNT, "arms": Items(TEXT), "schedule": TEXT}
        ),
        "shards": Fields(
            {"rule": TEXT, "places": COUNT, "workers": COUNT, "nodes": Items(TEXT)}
        ),
        "survey": Fields({"requests": COUNT, "span_s": NUMBER, "busy_s": NUMBER, "skipped": Each(COUNT)}),
        "cache": Fields(
            {"mode": TEXT,
             "probe": Fields({"completed": COUNT, "prompt": COUNT, "cached": COUNT, "usd": NUMBER})}
        ),
        "argv": Items(TEXT),
        "versions": Each(TEXT),
    }
)  # fmt: skip
TOTALS: Final = Fields(
    {
        **dict.fromkeys(IDENTITY, COUNT),
        "reconnected": COUNT,
        **dict.fromkeys(
            ("client_limit", "skipped", "hosts", "portability", "unchanged", "masked"),
            Each(COUNT),
        ),
        "idle": Fields({"stretches": COUNT, "think_times": COUNT, "seconds": NUMBER}),
        "tick_s": NUMBER,
        "trace_losses": Each(LOSS),
        "ended_by": TEXT,
        "trace_failure": TEXT,
        "warmup_s": NUMBER,
        "clock": TEXT,
        "coalesced_share": NUMBER,
        "loop_stall_s": Fields(
            dict.fromkeys(("p50", "p99", "max"), NUMBER), frozenset({"p50", "p99", "max"})
        ),
        "turns": Fields(
            {
                "causal": TEXT,
                **dict.fromkeys(
                    ("continued", "waited", "early", "skipped", "severed", "forgotten"), COUNT
                ),
                "live": Each(COUNT),
            }
        ),
        "hit_rates": Fields(
            {**RATES, "turns": Items(Fields({"turn": COUNT, **RATES}, SUMS, filled=True))},
            SUMS,
            filled=True,
        ),
        "most_in_flight": COUNT,
        "workers": COUNT,
        "lost_workers": Items(TEXT),
        "shards": Items(
            Fields(
                {
                    **dict.fromkeys(("worker", "planned", "ended", *IDENTITY[-2:]), COUNT),
                    **dict.fromkeys(("late_s", "lost_at_s"), NUMBER),
                    **dict.fromkeys(("node", "unread"), TEXT),
                    **dict.fromkeys(("clock_ahead_s", "clock_uncertainty_s"), Items(NUMBER)),
                }
            )
        ),
        "client": Each(NUMBER, filled=False),
        "cost": Fields({"usd": NUMBER, "unpriced": Each(COUNT), "uncounted": COUNT}),
    },
    needed=frozenset(IDENTITY),
    filled=True,
)
PROGRESS: Final = Fields({"planned": COUNT, "issued": COUNT})


def check(value: Mapping[str, Any], form: Form, name: str) -> None:
    """Raise ValueError where a map (the `name` says which) is not of its form."""
    if fault := next(_faults(value, form, name, 0), None):
        raise ValueError(fault)


def _faults(value: Any, form: Form | None, place: str, depth: int) -> Iterator[str]:  # noqa: ANN401
    if depth > DEEPEST:
        yield f"{place} holds too much in each other"
    elif value is None:
        return
    elif isinstance(form, Kind):
        if not form.holds(value):
            yield f"{place} is {value!r:.60}, which is not {form.words}"
    elif isinstance(value, Mapping) and not isinstance(form, Items):
        yield from _inside(value, form, place, depth)
    elif isinstance(value, list) and isinstance(form, Items | None):
        for number, item in enumerate(value):
            yield from _faults(item, form and form.form, f"{place}[{number}]", depth + 1)
    elif form is not None:
        yield f"{place} is {value!r:.60}, which is not a {'list' if isinstance(form, Items) else 'map'}"


def _inside(
    value: Mapping[Any, Any], form: Fields | Each | None, place: str, depth: int
) -> Iterator[str]:
    for name, item in value.items():
        if not isinstance(name, str):
            yield f"{place} has the key {name!r:.60}, which is not a text"
            return
        if item is None and isinstance(form, Each) and form.filled:
            yield f"{place}.{name} is null"
        inner = form.forms.get(name) if isinstance(form, Fields) else form and form.form
        yield from _faults(item, inner, f"{place}.{name}", depth + 1)
    if isinstance(form, Fields):
        for name in sorted(form.needed):
            if name not in value or (form.filled and value[name] is None):
                yield f"{place} has no {name}"
