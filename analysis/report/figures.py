"""Figures: pictures as elements of a page, with the data and the program that draw them.

Everything is in the page itself, and its content security policy forbids it to ask for more.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, Final

import altair as alt
import vl_convert

from tbench.analysis.charts import Picture
from tbench.analysis.charts.drawing import Rows
from tbench.analysis.report import vega
from tbench.analysis.report.markup import Html, details, html, join, name_of, section, tag


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of a report: what stands under its heading, then its pictures. Empty: it is left out.

    One that is not `unfolded` is opened by its heading.
    """

    title: str
    body: Html
    pictures: tuple[Picture, ...] = ()
    unfolded: bool = False

    def __bool__(self) -> bool:
        return bool(self.body or self.pictures)


def part(
    title: str,
    *body: object,
    pictures: Iterable[Picture | None] = (),
    unfolded: bool = False,
) -> Part:
    """A section; pictures that are None have nothing to show."""
    shown = tuple(filter(None, pictures))
    return Part(title=title, body=join(body), pictures=shown, unfolded=unfolded)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole report: its title, what it is about (for pictures alone), the first screen, its sections.

    The first screen is the `head`, and below it the `lead` pictures with the `caveats` beside them.
    """

    title: str
    about: Sequence[str]
    head: Html
    parts: Sequence[Part]
    lead: tuple[Picture, ...] = ()
    caveats: Html = Html("")  # noqa: RUF009 (a str, which nobody can change)

    @cached_property
    def pictures(self) -> Mapping[str, Picture]:
        """Every picture by a name that is fit for a file and for an element."""
        by_name: dict[str, Picture] = {}
        for picture in (*self.lead, *(one for part in self.parts for one in part.pictures)):
            name, again = name_of(picture.title), 2
            while name in by_name:
                name, again = f"{name_of(picture.title)}-{again}", again + 1
            by_name[name] = picture
        return by_name

    def page(self) -> str:
        """The report as an HTML page that needs nothing else."""
        names = {id(picture): name for name, picture in self.pictures.items()}
        sections = [
            section(part.title, part.body, _grid(part.pictures, names), unfolded=part.unfolded)
            for part in self.parts
            if part
        ]
        lead = tag("div", _grid(self.lead, names, "h2"), self.caveats, class_="lead")
        body = tag("main", join([self.head, lead if self.lead or self.caveats else "", *sections]))
        return document(self.title, body, self.pictures)


def _grid(pictures: Sequence[Picture], names: Mapping[int, str], heading: str = "h3") -> Html:
    """The figures of a section; a note that several share stands once above them."""
    if not pictures:
        return html(None)
    counts = Counter(one.note for one in pictures)
    shared = [tag("p", note, class_="quiet") for note, count in counts.items() if count > 1]
    own = [_figure(names[id(one)], one, heading, alone=counts[one.note] == 1) for one in pictures]
    return join([*shared, tag("div", join(own), class_="figures")])


def _figure(name: str, picture: Picture, heading: str, *, alone: bool) -> Html:
    note = tag("p", picture.note, class_="quiet") if alone else None
    return tag(
        "figure",
        tag(heading, picture.title, id=f"{name}-title"),
        tag("div", tag("noscript", NO_SCRIPT), id=name, class_="chart"),
        tag("figcaption", _in_words(picture.text), note),
        aria_labelledby=f"{name}-title",
        class_="broad" if picture.broad else None,
    )


def _in_words(text: str) -> Html:
    """What a picture shows; folded where it repeats each number that is drawn."""
    return tag("p", text) if len(text) <= CAPTION else details("Figures in words", tag("p", text))


CAPTION = 90
"""Characters of a caption that need no folding."""
NO_SCRIPT = "This chart needs JavaScript, which did not run; its figures are below in words."


def document(title: str, body: Html, pictures: Mapping[str, Picture]) -> str:
    """A whole page: style, body, data and program. Nothing in it comes from elsewhere."""
    scripts = [vega.script(), _part("page.js")] if pictures else []
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Html(_part("page.css"))),
        ]
    )
    data = {name: _compact(picture) for name, picture in pictures.items()}
    end = join(
        [
            tag("script", Html(_json(data)), type="application/json", id="pictures"),
            *(tag("script", Html(script)) for script in scripts),
        ]
    )
    skip = tag("a", "Skip to the results", href="#results", class_="skip")
    whole = tag(
        "html",
        tag("head", head),
        tag("body", skip, body, end if scripts else html(None)),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{whole}\n"


def _compact(picture: Picture) -> dict[str, object]:
    """A picture's specification, its data by columns: a third of the size. page.js makes rows of them."""
    tables = {name: _columns(rows) for name, rows in picture.tables.items()}
    return {**picture.spec, "datasets": tables}


def _columns(rows: Rows) -> dict[str, object]:
    """Each column as its values; one of few words as the words and their places."""
    columns = {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
    return {"n": len(rows), "columns": {key: _coded(values) for key, values in columns.items()}}


def _coded(values: list[Any]) -> list[Any] | dict[str, list[Any]]:
    words = list(dict.fromkeys(values))
    if len(words) * 2 > len(values) or not all(isinstance(word, str) for word in words):
        return values
    places = {word: place for place, word in enumerate(words)}
    return {"words": words, "places": [places[value] for value in values]}


def _json(data: object) -> str:
    """JSON that ends no script element, whatever is in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _part(name: str) -> str:
    return files("tbench.analysis.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# Pictures as files: each chart of a report as PNG and SVG, for a slide or a document. Nothing is fetched.

WIDTH: Final = 720
"""Pixels; the PNG has twice as many of them."""
SCALE: Final = 2
QUIET: Final = "#565d66"
INK: Final = "#1a1d21"
"""What text and lines have where no page gives them a colour."""


def pictures(found: Mapping[str, Picture], about: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File names with their contents, two for each picture: NAME.svg and NAME.png.

    `about` stands under each title, line by line: away from its page a picture has to say whose it is.
    """
    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    for name, picture in found.items():
        spec = _alone(picture, about)
        svg = vl_convert.vegalite_to_svg(spec, vl_version=version, allowed_base_urls=[])
        yield f"{name}.svg", svg.encode()
        yield (
            f"{name}.png",
            vl_convert.vegalite_to_png(spec, vl_version=version, scale=SCALE, allowed_base_urls=[]),
        )


def _alone(picture: Picture, about: Sequence[str]) -> dict[str, Any]:
    """A picture without a page around it: of a fixed width, on white, with its title and its note."""
    text = json.dumps(picture.spec).replace('"currentColor"', json.dumps(INK))
    spec: dict[str, Any] = json.loads(text)
    title = {"text": picture.title, "anchor": "start", "fontSize": 15, "color": INK, "offset": 12}
    title |= {"subtitle": list(about), "subtitleColor": QUIET, "subtitleFontSize": 11}
    spec["config"] = {**spec["config"], "background": "#ffffff", "font": "sans-serif"}
    return {**spec, "width": WIDTH, "padding": 14, "title": title}
