"""Words: numbers with their units as people read them. The same in every report."""

from replay.throughput import three

UNBOUNDED = "∞"
ROUNDS_TO_1 = 1.0005
"""What lies between 1 and this is written as 1.000."""
SHORT = frozenset({"ttft", "e2e", "tpot", "itl"})
"""Words that are written in capitals."""


def amount(value: float | None, unit: str, digits: int = 3) -> str:
    """A value in the unit that suits its size: 0.0123 s is 12.3 ms. Nothing is a dash."""
    if value is None:
        return "-"
    name, factor = scale(abs(value), unit)
    return f"{three(value * factor, digits)} {name}"


def beyond(value: float | None, at_least: float | None, unit: str) -> str:
    """A value, or what it is known to exceed where timeouts hide it."""
    if value is None and at_least is not None:
        return f"> {amount(at_least, unit)}"
    return amount(value, unit)


def ratio(value: float | None) -> str:
    """A ratio to three decimals, or to three digits when it is large."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else three(value)


def ratio_interval(low: float | None, high: float | None) -> str:
    """An interval of a ratio: an open end is 0 or infinity, or 1 where that is just left out."""
    left, right = "(0", UNBOUNDED + ")"
    if low is not None:
        left = f"{'(' if 1 < low < ROUNDS_TO_1 else '['}{ratio(low)}"
    if high is not None:
        right = f"{ratio(high)}{')' if 2 - ROUNDS_TO_1 < high < 1 else ']'}"
    return f"{left}, {right}"


def scale(size: float, unit: str) -> tuple[str, float]:
    """The unit in which a value of this size is read best, and the factor to get there."""
    if unit != "s" or size >= 1 or not size:
        return unit, 1.0
    return ("ms", 1e3) if size >= 1e-3 else ("µs", 1e6)


def interval(low: float | None, high: float | None) -> str:
    """An interval of a value; an open end is 0 or infinity."""
    left = "[" + three(low) if low is not None else "(0"
    return f"{left}, {three(high)}]" if high is not None else f"{left}, {UNBOUNDED})"


def amount_interval(low: float | None, high: float | None, unit: str) -> str:
    """An interval of a value with its unit, said once; an open end is 0 or infinity."""
    ends = [abs(end) for end in (low, high) if end is not None]
    name, factor = scale(max(ends, default=0.0), unit)
    scaled = (None if end is None else end * factor for end in (low, high))
    return f"{interval(*scaled)} {name}"


def points(share: float, *, more: int = 0) -> str:
    """A difference of two shares, in percentage points; `more` digits than usual."""
    return f"{share * 100:+.{2 + more}f} pp"


def change(value: float | None, *, share: bool = False, more: int = 0) -> str:
    """A ratio as a change in per cent, 1.05 is +5.0 %; a difference of shares in points; `more` digits."""
    if value is None:
        return "unknown"
    if share:
        return points(value, more=more)
    return f"{(value - 1) * 100:+.{1 + more}f} %" if value < 10 else f"x {three(value)}"


def change_interval(low: float | None, high: float | None, *, share: bool = False) -> str:
    """An interval of a change; an open end is as far as it goes."""
    left = (
        f"[{change(low, share=share)}"
        if low is not None
        else f"({'-100 pp' if share else '-100 %'}"
    )
    right = (
        f"{change(high, share=share)}]"
        if high is not None
        else f"{'+100 pp' if share else UNBOUNDED})"
    )
    return f"{left}, {right}"


def title(metric: str) -> str:
    """A metric's name where people read it: `ttft_sent` is TTFT sent."""
    return " ".join(word.upper() if word in SHORT else word for word in metric.split("_"))


def percentile(p: float) -> str:
    """0.999 is p99.9."""
    return f"p{p * 100:.6g}"
