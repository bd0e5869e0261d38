"""History: the sessions of a baseline, kept as a small JSON file that belongs in a repository.

A session is the runs of one arm that were recorded together. Of them it keeps each gate's figure of every
run, the date, and what was asked of whom: no prompt, no path, no key. One figure stands on one line.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from tbench.analysis.run_metrics import Figure
from tbench.capture.errors import InputError
from tbench.capture.jsontext import loads
from tbench.capture.terminal import plural
from tbench.capture.writing import SHARED, write_whole

FORMAT: Final = 1
DIGITS: Final = 7
WORDS: Final = ("recorded", "trace", "name", "model", "target", "pacing")
_CURE: Final = "take the last version that the repository has"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session. `figures` has, by what is looked at, each run's value and its number of requests.

    `recorded` is when the first run began, ISO 8601 in UTC. `target` is host and port. `requests` are
    those that every run holds, outside the warm-up. `runs` are the random marks of their files, empty in
    baseline files of older versions.
    """

    recorded: str
    trace: str
    name: str
    model: str | None
    target: str | None
    pacing: str
    versions: Mapping[str, str]
    requests: int
    figures: Mapping[str, tuple[Figure, ...]]
    runs: tuple[str, ...] = ()

    def shares(self, runs: Sequence[str], recorded: str) -> bool:
        """Whether one of these runs, of which the first began then, is in it."""
        return not {*self.runs}.isdisjoint(runs) if self.runs else self.recorded == recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The sessions of a file, in the order in which they were recorded; all of one trace."""

    path: Path
    sessions: tuple[Session, ...]

    @property
    def text(self) -> str:
        """How many there are, and of when."""
        dates = [session.recorded[:10] for session in self.sessions]
        count = plural(len(dates), "session")
        return f"{count} from {dates[0]} to {dates[-1]}" if dates else "no session"


def read_history(path: Path) -> History:
    """Read a baseline file. Raises InputError for one that is none, or whose sessions make no sense."""
    try:
        document = loads(path.read_bytes())
        if document["tbench_baseline"] != FORMAT:
            raise InputError(
                f"{path}: a baseline of format {document['tbench_baseline']}; update tbench"
            )
        sessions = [_session(session) for session in document["sessions"]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a baseline file ({error}); {_CURE}") from None
    if len({session.trace for session in sessions}) > 1:
        raise InputError(f"{path}: holds sessions of several traces; {_CURE}")
    for session, other in combinations(sessions, 2):  # as a merge by hand may leave them
        if session.shares(other.runs, other.recorded):
            raise InputError(
                f"{path}: holds the runs of {other.recorded} twice; remove one of the two"
            )
    return History(path=path, sessions=_ordered(sessions))


def _session(record: Mapping[str, Any]) -> Session:
    # Sessions are sorted by it, and weekends told by it: a wrong date must not pass as text.
    datetime.fromisoformat(record["recorded"])
    figures: dict[str, tuple[Figure, ...]] = {}
    for name, runs in record["figures"].items():
        # Files of older versions, and metrics that are no shares, have no events.
        events = runs.get("events") or [0] * len(runs["n"])
        rows = list(zip(runs["values"], runs["n"], events, strict=True))
        for value, n, count in rows:
            if not 0 <= value < float("inf") or not 0 <= count <= n or n < 1:
                raise ValueError(f"{value}, {count} of {n}")
        figures[name] = tuple(
            Figure(value=float(value), n=int(n), events=int(count)) for value, n, count in rows
        )
    words = {name: record[name] for name in WORDS}
    if not all(isinstance(word, str) for word in words.values() if word is not None):
        raise TypeError("a session's name, trace, model, target or pacing is no text")
    return Session(
        **words,
        versions=dict(record["versions"]),
        requests=int(record["requests"]),
        figures=figures,
        runs=tuple(map(str, record.get("runs") or ())),
    )


def appended(history: History, session: Session) -> History:
    """The history with one session more. Raises InputError for another trace, or one that it has."""
    if any(past.trace != session.trace for past in history.sessions):
        raise InputError(
            f"{history.path}: its sessions are of trace {history.sessions[0].trace}, these runs are of "
            f"{session.trace}; keep a file for each trace"
        )
    if twice := [past for past in history.sessions if past.shares(session.runs, session.recorded)]:
        raise InputError(f"{history.path}: holds these runs already ({twice[0].recorded})")
    return History(path=history.path, sessions=_ordered((*history.sessions, session)))


def _ordered(sessions: Iterable[Session]) -> tuple[Session, ...]:
    """As recorded. By the text: `session_of` writes UTC to the millisecond, whose order is that of time."""
    return tuple(sorted(sessions, key=lambda session: session.recorded))


def write_history(history: History) -> None:
    """Write the file in one go. Raises InputError where that cannot be."""
    write_whole(history.path, written(history.sessions), SHARED)


def written(sessions: Sequence[Session]) -> str:
    """The text of the file: a session more is some lines more, at the end."""
    blocks = []
    for session in sessions:
        words = {name: getattr(session, name) for name in (*WORDS, "versions", "requests")}
        words |= {"runs": session.runs} if session.runs else {}
        lines = [f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in words.items()]
        rows = []
        for name, runs in session.figures.items():
            row: dict[str, Sequence[float]] = {
                "values": [float(f"{figure.value:.{DIGITS}g}") for figure in runs],
                "n": [figure.n for figure in runs],
            }
            if any(figure.events for figure in runs):  # of a share: of how many
                row["events"] = [figure.events for figure in runs]
            rows.append(f"    {json.dumps(name)}: {json.dumps(row)}")
        figures = ",\n".join(rows)
        lines.append(f'   "figures": {{\n{figures}\n   }}')
        blocks.append("  {\n" + ",\n".join(lines) + "\n  }")
    every = ",\n".join(blocks)
    return f'{{\n "tbench_baseline": {FORMAT},\n "sessions": [\n{every}\n ]\n}}\n'
