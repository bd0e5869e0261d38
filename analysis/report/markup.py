"""HTML that cannot be broken by what is in it: whatever is not markup is escaped."""

import re
from collections.abc import Container, Iterable, Sequence
from html import escape

from tbench.analysis.words import Cell, Table

PROSE = 30
"""Characters from which a cell is a sentence."""
NARROW = " (more columns on a wider screen)"
VOID = frozenset({"meta", "br"})
VERBATIM = frozenset({"code", "pre", "title", "script", "style"})
"""Elements whose text may be copied: it stays as it is."""
_UNIT = re.compile(r"(?<=\d) (?=%|(?:ms|s|µs|pp)\b)")
_INTERVAL = re.compile(r"[\[(][-+]?[\d.,]+[ %xpms]*, [-+]?[\d.,∞]+[ %xpms]*[\])]")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def html(part: object) -> Html:
    """A part of a page: markup stays, None is nothing, all else is escaped."""
    if isinstance(part, Html):
        return part
    return Html("" if part is None else escape(str(part)))


def join(parts: Iterable[object], between: object = "") -> Html:
    """Parts one after the other."""
    return Html(html(between).join(map(html, parts)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Attributes that are None are left out; `class_` and `aria_label` lose their `_`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    inside = children if name in VERBATIM else map(_unbroken, children)
    return Html(f"<{name}{given}>{join(inside)}</{name}>")


def _unbroken(part: object) -> object:
    """A text whose numbers no line parts from their units, and whose intervals stay whole."""
    if not isinstance(part, str) or isinstance(part, Html):
        return part
    text = _INTERVAL.sub(lambda interval: interval[0].replace(" ", "\N{NO-BREAK SPACE}"), part)
    return _UNIT.sub("\N{NO-BREAK SPACE}", text)


def number(value: float | None, shown: str) -> Html:
    """A number as people read it, with its exact value for programs; without one, only the text."""
    return html(shown) if value is None else tag("data", shown, value=repr(float(value)))


def span(low: float | None, high: float | None, shown: str) -> Html:
    """An interval as people read it, with its exact ends for programs; an open end has none."""
    ends = [None if end is None else repr(float(end)) for end in (low, high)]
    return tag("span", shown, class_="interval", data_low=ends[0], data_high=ends[1])


def table(
    caption: object,
    head: Sequence[object],
    rows: Iterable[Iterable[object]],
    *,
    phone: Container[object] | None = None,
) -> Html:
    """A table whose first column names its rows; it scrolls by itself when it is wide.

    A narrow screen shows only the columns headed by one of `phone`, where that is given.
    """
    rest = ["rest" if phone is not None and name not in phone else None for name in head]
    columns = [
        tag("th", name, scope="col", class_=hidden) for name, hidden in zip(head, rest, strict=True)
    ]
    body = []
    for first, *cells in rows:
        row = [tag("th", first, scope="row")]
        for cell, hidden in zip(cells, rest[1:], strict=True):
            # A cell that holds a sentence is given room for it.
            prose = not isinstance(cell, Html) and isinstance(cell, str) and len(cell) > PROSE
            classes = [*(["prose"] if prose else []), *([hidden] if hidden else [])]
            row.append(tag("td", cell, class_=" ".join(classes) or None))
        body.append(tag("tr", *row))
    narrow = tag("span", NARROW, class_="narrow") if any(rest) else None
    element = tag(
        "table",
        tag("caption", tag("span", caption), narrow),
        tag("thead", tag("tr", *columns)),
        tag("tbody", *body),
    )
    return tag("div", element, class_="wide", tabindex="0", role="region", aria_label=caption)


def drawn(made: Table, *, phone: Container[object] | None = None) -> Html:
    """A table of cells, exact values inside; of one without rows its caption. `phone` as of `table`."""
    if not made.rows:
        return tag("p", made.caption, class_="quiet")
    return table(made.caption, made.heads, [map(_cell, row) for row in made.rows], phone=phone)


def _cell(cell: Cell) -> object:
    # Of a count the text is exact by itself; a mere text stays one, so that a sentence is given room.
    exact = cell.value is not None and cell.unit != "n"
    shown: object = number(cell.value, cell.text) if exact else cell.text
    if cell.ends:
        shown = span(*cell.ends, cell.text)
    if any(cell.marks):
        shown = join([cell.marks[0], shown, cell.marks[1]])
    if cell.tone:
        shown = tag("span", shown, class_=f"mark {cell.tone}")
    return (
        join([shown, tag("span", _cell(cell.below), class_="quiet")], tag("br"))
        if cell.below
        else shown
    )


def details(summary: str, *parts: object) -> Html:
    """Parts that a reader opens by their summary."""
    return tag("details", tag("summary", summary), *parts)


def section(title: str, *parts: object, unfolded: bool = True) -> Html:
    """A part of the page under its heading, which opens it where it is folded; nothing without content."""
    if not (inside := join(parts)):
        return html(None)
    name = name_of(title)
    heading = tag("h2", title, id=name)
    if unfolded:
        return tag("section", heading, inside, aria_labelledby=name)
    return tag("details", tag("summary", heading), inside, class_="part")


def name_of(title: str) -> str:
    """A title as the name of an element or a file: lower-case words joined by hyphens."""
    return "-".join(re.findall(r"[a-z0-9.]+", title.lower())) or "untitled"
