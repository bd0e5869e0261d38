"""The warm-up: how much of a run's beginning is kept, marked, and left out of the statistics."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from tbench.capture.errors import InputError

AUTO_S: Final = 60.0
AUTO_SHARE: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class Warmup:
    """`auto` is the first 60 s and at most one sixteenth of the run; else seconds or a share (0 to 1)."""

    kind: Literal["auto", "seconds", "share"] = "auto"
    value: float = 0.0

    def seconds(self, duration_s: float) -> float:
        """Its length in a run of `duration_s` seconds."""
        match self.kind:
            case "auto":
                return min(AUTO_S, AUTO_SHARE * duration_s)
            case "seconds":
                return self.value
            case "share":
                return self.value * duration_s


def parse_warmup(text: str) -> Warmup:
    """`auto`, `none`, seconds (`30`), or a share of the run (`5%`)."""
    if text == "auto":
        return Warmup()
    if text == "none":
        return Warmup("seconds", 0.0)
    if not (match := re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%|s)?", text)):
        raise InputError(f"--warmup {text!r}: write auto, none, seconds (30) or a share (5%)")
    number = float(match[1])
    if match[2] != "%":
        return Warmup("seconds", number)
    if number >= 100:
        raise InputError(f"--warmup {text}: nothing of the run would be left")
    return Warmup("share", number / 100)
