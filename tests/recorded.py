"""What a capture records and a replay measures, for tests that do not care how it came about."""

from pathlib import Path
from typing import Any, Final

import numpy as np

from tbench.analysis.arms import Arm
from tbench.capture.exchange import Request
from tbench.replay.columns import ABSENT, NUMBERS
from tbench.replay.runfile import Run, recount

JSON: Final = (("content-type", "application/json"),)
CHAT: Final = "/v1/chat/completions"
Columns = dict[str, Any]


def chat_request(
    seq: int = 0, at_ns: int = 0, body: bytes | None = None, /, **fields: Any
) -> Request:
    """A chat request that came at `at_ns`, all of it at once; `fields` are what is else to be said of it."""
    known = {
        "id": f"{seq:032x}",
        "seq": seq,
        "arrive_ns": at_ns,
        "end_ns": at_ns,
        "method": "POST",
        "scheme": "http",
        "host": "h",
        "path": CHAT,
        "headers": JSON,
        "body": body,
        **fields,
    }
    known.setdefault("body_bytes", len(known["body"] or b""))
    return Request(**known)


def run_columns(n: int, *, gap_s: float, wait_s: Any, stream_s: Any, lag_s: Any = 0.0) -> Columns:
    """The columns of a run of n streamed answers of 20 tokens, each due `gap_s` after the one before it.

    A request leaves `lag_s` late, has its first token `wait_s` after that, and its last `stream_s` later:
    numbers, or one for each.
    """
    columns: Columns = {
        name: np.full(n, ABSENT[np.dtype(kind).kind], kind) for name, kind in NUMBERS.items()
    }
    columns |= {"index": np.arange(n), "cycle": np.zeros(n, int), "due": np.arange(n) * gap_s}
    columns["sent"] = columns["due"] + lag_s
    columns["first_token"] = columns["first_answer"] = columns["sent"] + wait_s
    columns["last_token"] = columns["end"] = columns["first_token"] + stream_s
    counts = {"prompt_tokens": 1000, "output_tokens": 20, "token_events": 20, "status": 200}
    columns |= {name: np.full(n, count) for name, count in counts.items()}
    columns["held"] = columns["connect"] = np.zeros(n)
    columns["stream"], columns["warmup"] = np.ones(n, bool), np.zeros(n, bool)
    words = {
        "outcome": "ok",
        "finish_reason": "stop",
        "endpoint": "chat",
        "model": "m",
        "error": None,
    }
    columns |= {name: np.full(n, word, dtype=object) for name, word in words.items()}
    columns["id"] = np.array([f"r{i}" for i in range(n)], dtype=np.dtypes.StringDType())
    columns["request_id"] = np.full(n, "", dtype=np.dtypes.StringDType())
    return columns


def arm_of(columns: Columns, name: str, header: Any = None, **changes: Any) -> Arm:
    """A run in memory of these columns as an arm; `changes` are fields of it that are others."""
    usual: dict[str, Any] = {
        "kind": "run",
        "name": name,
        "run": Run(Path(f"{name}.run"), header or {}, columns, recount(columns), complete=True),
        "source": "trace-1",
        "model": "m",
        "target": None,
        "pacing": "as recorded",
        "as_recorded": True,
        "token_gaps": lambda: (np.zeros(len(columns["id"]) + 1, int), np.zeros(0)),
    }
    return Arm(**(usual | changes))
