"""Small runs of every kind: closed loops and open ones, that fail, lag, tick, end early or lose workers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.replay.columns import ABSENT, NUMBERS, Column, pack, tokens_record
from tbench.replay.runfile import RunWriter

N: Final = 20_000
PLACES: Final = 64


class Draft:
    """A run that is made up: its columns, in the order of the plan, its header and its totals."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.columns: dict[str, Any] = {
            name: np.full(N, ABSENT[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()
        }
        self.columns |= {
            "index": np.arange(N),
            "cycle": np.zeros(N),
            "output_tokens": self.random.integers(2, 40, N),
            "token_events": np.full(N, 20),
            "prompt_tokens": self.random.integers(20, 400, N),
            "cached_tokens": np.full(N, 16),
            **{name: np.zeros(N) for name in ("coalesced", "held", "connect", "refusals")},
            "status": np.full(N, 200),
            "stream": np.ones(N, bool),
            "endpoint": np.full(N, "chat", object),
            "model": np.full(N, "gpt-4o", object),
            "outcome": np.full(N, "ok", object),
            "error": np.full(N, None),
            "finish_reason": np.full(N, "stop", object),
            "id": np.array([f"r{i}" for i in range(N)]),
            "request_id": np.full(N, ""),
        }
        self.waits_s = self.random.lognormal(-1, 0.4, N)
        self.streams_s = self.random.lognormal(-0.5, 0.3, N)
        self.header: dict[str, Any] = {
            "wall_ns": 10**18,
            "trace": {"capture_id": "t"},
            "pacing": {"mode": "constant", "value": 1.0},
            "target": {"prices": {"gpt-4o": [2.5, 10.0, 1.25, None]}},
        }
        self.totals: dict[str, Any] = {"warmup_s": 100.0, "ended_by": "plan"}
        self.killed = False
        self.open_loop()

    def open_loop(self, every_s: float = 1.0) -> None:
        due = np.arange(N) * every_s
        self.columns["due"] = due
        self.send(due + self.random.exponential(0.001, N))

    def send(self, sent: Column) -> None:
        """Requests that leave then, and their answers."""
        first = sent + self.waits_s
        last = first + self.streams_s
        self.columns |= {
            "sent": sent,
            "first_token": first,
            "first_answer": first,
            "last_token": last,
            "end": last,
        }

    def closed_loop(self, lasted: Column, width: Column | None = None) -> None:
        """Of PLACES places the one that is free first takes the next request; a place may have several."""
        sessions = np.arange(N) if width is None else width
        free, sent = np.zeros(PLACES), np.empty(N)
        begins = np.flatnonzero(np.diff(sessions, prepend=-1))
        for first, last in zip(begins, [*begins[1:], N], strict=True):
            place = int(free.argmin())
            ends = free[place] + np.cumsum(lasted[first:last])
            sent[first:last] = ends - lasted[first:last]
            free[place] = ends[-1]
        self.columns["due"] = np.full(N, np.nan)
        self.waits_s, self.streams_s = lasted * 0.3, lasted * 0.7
        self.send(sent)
        self.header["pacing"] = {"mode": "concurrency", "value": PLACES}

    def fail(self, rows: Column, outcome: str = "http_error", status: int = 503) -> None:
        absent: dict[str, Any] = dict.fromkeys(
            ("first_token", "first_answer", "last_token"), np.nan
        )
        absent |= {"output_tokens": -1, "prompt_tokens": -1, "token_events": 0}
        for name, value in {**absent, "outcome": outcome, "status": status}.items():
            self.columns[name] = np.where(rows, value, self.columns[name])
        self.columns["finish_reason"][rows] = None

    def write(self, path: Path, rows: Column | slice = slice(None)) -> Path:
        columns = {name: column[rows] for name, column in self.columns.items()}
        writer = RunWriter(path, self.header, clock=lambda: 0.0)
        order = np.argsort(columns["end"], kind="stable")
        for places in np.array_split(order, 20):
            block = {name: column[places] for name, column in columns.items()}
            writer.append(pack(block), first=int(block["index"][0]))
            gaps = np.maximum(block["token_events"] - 1, 0).astype(int)
            writer.append(tokens_record(block["index"], gaps, np.full(gaps.sum(), 10_000)))
        if self.killed:
            writer.append({"type": "progress", "planned": N + 100, "issued": N + 10})
            writer._container._seal()
            writer._container._release()
            return path.with_name(path.name + ".part")
        outcomes = columns["outcome"]
        completed, cancelled = (int((outcomes == word).sum()) for word in ("ok", "cancelled"))
        counts = {
            "planned": N,
            "completed": completed,
            "cancelled": cancelled,
            "failed": len(outcomes) - completed - cancelled,
            "lost_in_flight": self.totals.get("lost_in_flight", 0),
        }
        counts["never_sent"] = N - len(outcomes) - counts["lost_in_flight"]
        return writer.close({**counts, "skipped": {}, **self.totals})


def _plain(draft: Draft) -> None:
    """Open, one request a second, 100 s of warm-up."""


def _slower(draft: Draft) -> None:
    draft.waits_s *= 1.2
    draft.open_loop()


def _closed(draft: Draft) -> None:
    draft.closed_loop(draft.random.lognormal(3.5, 1.0, N))


def _not_kept_full(draft: Draft) -> None:
    """A fifth of each request's time its place is free before."""
    _closed(draft)
    lasted = draft.columns["end"] - draft.columns["sent"]
    draft.send(draft.columns["sent"] + lasted * 0.2)
    for name in ("last_token", "end"):
        draft.columns[name] -= lasted * 0.2
    draft.totals["client"] = {"cpu_share": 0.95}


def _lockstep(draft: Draft) -> None:
    waits_s = draft.waits_s.clip(0, 9)
    draft.closed_loop(np.full(N, 10.0))
    draft.waits_s = waits_s
    draft.streams_s = 10 * draft.random.lognormal(0, 0.1, N) - draft.waits_s
    draft.send(draft.columns["sent"])


def _closed_tail(draft: Draft) -> None:
    lasted = draft.random.lognormal(3.5, 0.3, N)
    lasted[-20:] = 5000.0
    draft.closed_loop(lasted)


def _placed_sessions(draft: Draft) -> None:
    numbers = np.repeat(np.arange(N // 3), np.arange(N // 3) % 7 + 1)[:N]
    draft.columns["session"] = numbers
    draft.closed_loop(draft.random.lognormal(3.0, 0.5, N), numbers)
    draft.header["pacing"]["mode"] = "sessions"


def _few_placed_sessions(draft: Draft) -> None:
    numbers = np.arange(N) // 500
    draft.columns["session"] = numbers
    draft.closed_loop(draft.random.lognormal(3.0, 0.5, N), numbers)
    draft.header["pacing"]["mode"] = "sessions"


def _closed_failing(draft: Draft) -> None:
    _closed(draft)
    draft.fail(draft.random.random(N) < 0.05)


def _sessions(draft: Draft) -> None:
    numbers = np.arange(N) % 300
    draft.columns["session"] = numbers
    draft.waits_s *= draft.random.lognormal(0, 0.3, 300)[numbers]
    draft.open_loop()


def _short_sessions(draft: Draft) -> None:
    numbers = np.arange(N) // 4
    draft.columns["session"] = numbers
    draft.waits_s *= draft.random.lognormal(0, 0.3, N)[numbers]
    draft.open_loop()


def _failing(draft: Draft) -> None:
    draft.fail(draft.random.random(N) < 0.05)


def _timeouts(draft: Draft) -> None:
    late = draft.random.random(N) < 0.03
    draft.columns["end"] = np.where(late, draft.columns["sent"] + 30.0, draft.columns["end"])
    draft.fail(late, "timeout", -1)


def _many_timeouts(draft: Draft) -> None:
    late = draft.random.random(N) < 0.2
    draft.columns["end"] = np.where(late, draft.columns["sent"] + 30.0, draft.columns["end"])
    draft.fail(late, "timeout", -1)


def _cut_short(draft: Draft) -> None:
    draft.fail(draft.random.random(N) < 0.04, "cancelled", -1)


def _ticking(tick_s: float) -> Callable[[Draft], None]:
    def tick(draft: Draft) -> None:
        draft.waits_s = draft.random.lognormal(-2.8, 0.4, N)
        draft.open_loop()
        for name in ("due", "sent", "first_token", "first_answer", "last_token", "end"):
            draft.columns[name] = np.round(draft.columns[name] / tick_s) * tick_s

    return tick


def _no_warmup(draft: Draft) -> None:
    draft.totals["warmup_s"] = 0.0


def _no_usage(draft: Draft) -> None:
    for name in ("output_tokens", "prompt_tokens", "cached_tokens"):
        draft.columns[name] = np.full(N, -1)


def _usage_missing(draft: Draft) -> None:
    missing = draft.random.random(N) < 0.05
    for name in ("output_tokens", "prompt_tokens", "cached_tokens"):
        draft.columns[name] = np.where(missing, -1, draft.columns[name])


def _lagging(draft: Draft) -> None:
    draft.send(draft.columns["due"] + draft.random.exponential(0.2, N))


def _early(draft: Draft) -> None:
    draft.send(draft.columns["due"] - draft.random.exponential(0.0002, N))


def _late_reads(draft: Draft) -> None:
    draft.columns["first_token_after"] = draft.columns["first_token"] - 0.2 * (
        np.arange(N) % 3 == 0
    )


def _few_late_reads(draft: Draft) -> None:
    rows = np.arange(N) % 50 == 0
    for name in ("first_token", "last_token", "end"):
        draft.columns[f"{name}_after"] = np.where(rows, draft.columns[name] - 0.003, np.nan)


def _interrupted(draft: Draft) -> None:
    draft.totals["ended_by"] = "interrupt"


def _killed(draft: Draft) -> None:
    draft.killed = True


def _holes(draft: Draft) -> None:
    draft.totals |= {
        "lost_in_flight": 15,
        "lost_workers": ["worker 1 was killed"],
        "shards": [{"worker": 1, "lost_at_s": 9000.0}],
        "workers": 2,
    }
    draft.header["limits"] = {"allow_lost": 5000}


def _buffered(draft: Draft) -> None:
    draft.columns["coalesced"] = np.where(np.arange(N) % 40 == 0, 0, 19)


def _partly_buffered(draft: Draft) -> None:
    draft.columns["coalesced"] = np.where(np.arange(N) < N // 2, 19, 0)


def _without_streams(draft: Draft) -> None:
    draft.columns["stream"] = np.zeros(N, bool)
    for name in ("first_token", "first_answer", "last_token"):
        draft.columns[name] = np.full(N, np.nan)
    draft.columns["token_events"] = np.zeros(N)


def _half_streams(draft: Draft) -> None:
    stream = np.arange(N) % 2 == 0
    draft.columns["stream"] = stream
    for name in ("first_token", "first_answer", "last_token"):
        draft.columns[name] = np.where(stream, draft.columns[name], np.nan)
    draft.columns["token_events"] = np.where(stream, 20, 0)


def _two_models(draft: Draft) -> None:
    draft.columns["model"][::3] = "nobody-prices-it"
    draft.columns["model"][:50] = "only-while-warming-up"


def _refused(draft: Draft) -> None:
    draft.columns["refusals"] = (np.arange(N) % 7 == 0) * 2


def _reasoning(draft: Draft) -> None:
    draft.columns["reasoning_tokens"] = draft.columns["output_tokens"] // 2
    draft.columns["cache_creation_tokens"] = np.full(N, 7)
    draft.columns["first_answer"] = draft.columns["first_token"] + draft.streams_s / 2


def _drifting(draft: Draft) -> None:
    draft.waits_s *= 1 + 0.5 * np.sin(np.arange(N) / N * 2 * np.pi)
    draft.open_loop()


def _overloaded(draft: Draft) -> None:
    draft.waits_s += np.arange(N) * 0.01
    draft.open_loop()


def _longer_prompts(draft: Draft) -> None:
    _overloaded(draft)
    draft.columns["prompt_tokens"] = (draft.waits_s * 1000).astype(int)


def _all_warm(draft: Draft) -> None:
    draft.totals["warmup_s"] = 1e6


def _single_tokens(draft: Draft) -> None:
    draft.columns["output_tokens"] = np.ones(N, int)
    draft.columns["token_events"] = np.ones(N, int)
    draft.columns["last_token"] = draft.columns["first_token"]


KINDS: Final[dict[str, Callable[[Draft], None]]] = {
    "open loop": _plain,
    "slower": _slower,
    "closed loop": _closed,
    "closed loop in lockstep": _lockstep,
    "closed loop not kept full": _not_kept_full,
    "closed loop with a tail": _closed_tail,
    "sessions in places": _placed_sessions,
    "fewer sessions than places": _few_placed_sessions,
    "closed loop that fails": _closed_failing,
    "sessions": _sessions,
    "short sessions": _short_sessions,
    "failures": _failing,
    "timeouts": _timeouts,
    "many timeouts": _many_timeouts,
    "cut short": _cut_short,
    "ticks of 10 ms": _ticking(0.01),
    "ticks of 1 ms": _ticking(0.001),
    "no warm-up": _no_warmup,
    "nothing but warm-up": _all_warm,
    "no usage": _no_usage,
    "some usage missing": _usage_missing,
    "sent late": _lagging,
    "sent early": _early,
    "read late": _late_reads,
    "a few read late": _few_late_reads,
    "interrupted": _interrupted,
    "killed": _killed,
    "a worker lost": _holes,
    "buffered": _buffered,
    "half of it buffered": _partly_buffered,
    "no streams": _without_streams,
    "half of it streams": _half_streams,
    "two models": _two_models,
    "refused at first": _refused,
    "reasoning": _reasoning,
    "drifting": _drifting,
    "overloaded": _overloaded,
    "longer and longer prompts": _longer_prompts,
    "answers of one token": _single_tokens,
}
ROWS: Final[dict[str, Callable[[], Column]]] = {
    "interrupted": lambda: np.arange(N) < 14_000,
    "a worker lost": lambda: (np.arange(N) < 9_000) | (np.arange(N) % 2 == 0),
}
"""The requests that a run has samples of, where these are not all."""


def make_run(path: Path, kind: str, seed: int) -> Path:
    """A run of that kind; returns its path."""
    draft = Draft(seed)
    KINDS[kind](draft)
    return draft.write(path, ROWS[kind]() if kind in ROWS else slice(None))
