"""Traffic: what a trace fixes for both arms. When requests arrive, how long they are, what they share.

Every function is pure in its numpy Generator. Times are in seconds, lengths in tokens. The constants are
those under which the method was chosen; the equations are in the docstrings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from tbench.analysis.arms import Truths
from tbench.analysis.inversion import Ints
from tbench.analysis.summary import Floats

THINK_S = 20.0
SESSION = 6
CACHED = 0.15
"""A cache hit computes this share of the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The requests of a trace in arrival order: arrays of equal length.

    `shared` is what a request adds to the logarithm of its latency in whichever arm, `cached` whether its
    prompt is in the cache, `session` numbers the conversation it belongs to.
    """

    due: Floats
    prompt: Floats
    output: Floats
    cached: Truths
    shared: Floats
    session: Ints

    def __len__(self) -> int:
        return len(self.due)

    @property
    def span_s(self) -> float:
        return float(self.due[-1] - self.due[0])


def sessions(n: int, random: Generator) -> Traffic:
    """Conversations that overlap, one request a second.

    Sessions start uniformly from 200 s before the trace on; their lengths are geometric with mean 6, the
    gaps between turns exponential with mean 20 s. log prompt = N(6.3, .9) of the session + .15 min(turn,
    10) + N(0, .3). From the second turn on 70 % are cached. shared = N(0, .2).
    """
    needed = int(n * 1.3) + 700
    lengths = random.geometric(1 / SESSION, size=needed // 3)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), needed)) + 1]
    session = np.repeat(np.arange(len(lengths)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    turn = np.arange(len(session)) - first
    gaps = np.cumsum(np.where(turn == 0, 0.0, random.exponential(THINK_S, len(session))))
    at = random.uniform(-200, n, len(lengths))[session] + gaps - gaps[first]
    order = np.argsort(at, kind="stable")
    order = order[at[order] > 0][:n]
    session, turn, at = session[order], turn[order], at[order]
    prompt = random.normal(6.3, 0.9, len(lengths))[session] + 0.15 * np.minimum(turn, 10)
    return Traffic(
        due=(at - at[0]) * (n / (at[-1] - at[0])),
        prompt=np.exp(prompt + random.normal(0, 0.3, n)),
        output=output_tokens(n, random),
        cached=(turn > 0) & (random.random(n) < 0.7),
        shared=random.normal(0, 0.2, n),
        session=np.unique(session, return_inverse=True)[1].astype(np.int64),
    )


def poisson(n: int, span_s: float, random: Generator) -> Traffic:
    """Independent requests: gaps exponential with mean span / n.

    Prompts are 70 % lognormal around 400 tokens (sigma .8) and 30 % around 3,000 (.6), at most 16,000;
    30 % are cached; shared = N(0, .2).
    """
    return Traffic(
        due=np.cumsum(random.exponential(span_s / n, n)),
        prompt=prompt_tokens(n, random),
        output=output_tokens(n, random),
        cached=random.random(n) < 0.3,
        shared=random.normal(0, 0.2, n),
        session=np.arange(n),
    )


def surging(n: int, span_s: float, random: Generator, *, peak: float, share: float) -> Traffic:
    """Poisson arrivals, in the middle `share` of the time `peak` times as many as on average."""
    drawn = poisson(n, span_s, random)
    rest = (1 - peak * share) / 2
    at = np.interp(
        drawn.due / drawn.due[-1],
        [0, rest, 1 - rest, 1],
        [0, (1 - share) / 2, (1 + share) / 2, 1],
    )
    return replace(drawn, due=span_s * at)


def self_exciting(
    n: int, span_s: float, random: Generator, *, branching: float = 0.7, delay_s: float = 10.0
) -> Traffic:
    """A. Hawkes' process: each arrival brings Poisson(branching) more, each after an exponential delay.

    Of some more than are needed the first n after a start-up are taken, and stretched to the span.
    """
    before_s = 20 * delay_s
    first = random.poisson(1.5 * n * (1 - branching) * (1 + before_s / span_s))
    births = random.uniform(-before_s, 1.5 * span_s, first)
    arrivals = [births]
    while len(births):
        births = np.repeat(births, random.poisson(branching, len(births)))
        births = births + random.exponential(delay_s, len(births))
        arrivals.append(births)
    due = np.sort(np.concatenate(arrivals))
    due = due[due > 0][:n]
    return replace(poisson(n, span_s, random), due=due * (span_s / due[-1]))


def interleaved(
    traffic: Traffic, random: Generator, *, sessions: int, share: float, power: float = 0.0
) -> Traffic:
    """The same requests, of which a share belongs to few sessions that last from end to end.

    Session k of them has k^-power of that share; every other request is a session of its own.
    """
    n = len(traffic)
    weights = np.arange(1, sessions + 1) ** -power
    drawn = random.choice(sessions, n, p=weights / weights.sum())
    held = random.random(n) < share
    session = np.where(held, drawn, sessions + np.arange(n)).astype(np.int64)
    return replace(traffic, session=session)


def prompt_tokens(n: int, random: Generator) -> Floats:
    """Short questions and long documents."""
    short = random.random(n) < 0.7
    logs = np.where(
        short, np.log(400) + 0.8 * random.normal(size=n), np.log(3000) + 0.6 * random.normal(size=n)
    )
    return np.asarray(np.minimum(np.exp(logs), 16_000))


def output_tokens(n: int, random: Generator) -> Floats:
    """Lognormal around 180 tokens, sigma .8, at most 1,500."""
    return np.asarray(np.minimum(180 * np.exp(0.8 * random.normal(size=n)), 1500))


def cached_now(traffic: Traffic, random: Generator) -> Truths:
    """Each arm finds a cache of its own: one request in ten is the other way round."""
    return traffic.cached ^ (random.random(len(traffic)) < 0.1)


Draw = Callable[[Generator], Traffic]
