"""Figures: a page of sections and pictures, with the data and the program that draw them; pictures as files.

Everything is in the page itself, and its content security policy forbids it to ask for more.
"""

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, Final

import altair as alt
import vl_convert

from tbench.analysis.charts import Picture
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
        for picture in chain(self.lead, *(part.pictures for part in self.parts)):
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
    counts = Counter(picture.note for picture in pictures)
    shared = [tag("p", note, class_="quiet") for note, count in counts.items() if count > 1]
    figures = []
    for picture in pictures:
        name, text = names[id(picture)], tag("p", picture.text)
        alone = counts[picture.note] == 1
        element = tag(
            "figure",
            tag(heading, picture.title, id=f"{name}-title"),
            tag("div", tag("noscript", NO_SCRIPT), id=name, class_="chart"),
            tag(
                "figcaption",
                text if len(picture.text) <= CAPTION else details("Figures in words", text),
                tag("p", picture.note, class_="quiet") if alone else None,
            ),
            aria_labelledby=f"{name}-title",
            class_="broad" if picture.broad else None,
        )
        figures.append(element)
    return join([*shared, tag("div", join(figures), class_="figures")])


CAPTION: Final = 90
"""Characters of a caption that need no folding; a longer one repeats each number that is drawn."""
NO_SCRIPT: Final = "This chart needs JavaScript, which did not run; its figures are below in words."


def document(title: str, body: Html, pictures: Mapping[str, Picture]) -> str:
    """A whole page: style, body, data and program. Nothing in it comes from elsewhere."""
    scripts = [vega(), _part("page.js")] if pictures else []
    metas = [
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
    ]
    data = json.dumps(
        {name: _compact(picture) for name, picture in pictures.items()},
        separators=(",", ":"),
        allow_nan=False,
    )
    for character in "<\u2028\u2029":  # so that nothing in it ends the script element
        data = data.replace(character, f"\\u{ord(character):04x}")
    end = join(
        [
            tag("script", Html(data), type="application/json", id="pictures"),
            *(tag("script", Html(script)) for script in scripts),
        ]
    )
    skip = tag("a", "Skip to the results", href="#results", class_="skip")
    inside = tag("body", skip, body, end if scripts else html(None))
    return whole_page(title, _part("page.css"), inside, scripts, *metas)


def whole_page(title: str, style: str, body: Html, scripts: Sequence[str], *metas: Html) -> str:
    """A page of its own; its policy lets these scripts run, and nothing be asked for."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = (
        " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        *metas,
        tag("title", title),
        tag("style", Html(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _compact(picture: Picture) -> dict[str, object]:
    """A picture's specification, its data by columns: a third of the size. page.js makes rows of them.

    A column of few words is the words and their places.
    """
    datasets: dict[str, object] = {}
    for name, rows in picture.tables.items():
        columns: dict[str, object] = {}
        for key in rows[0] if rows else ():
            values = columns[key] = [row[key] for row in rows]
            words = {word: place for place, word in enumerate(dict.fromkeys(values))}
            if len(words) * 2 <= len(values) and all(isinstance(word, str) for word in words):
                columns[key] = {"words": list(words), "places": [words[value] for value in values]}
        datasets[name] = {"n": len(rows), "columns": columns}
    return {**picture.spec, "datasets": datasets}


@cache
def _part(name: str) -> str:
    return files("tbench.analysis.report").joinpath(name).read_text(encoding="utf-8")


# Vega, the program that draws, as one script. Making it takes over a second and 100 MB, more than all else in
# a page: it is made once a version, and kept in the user's cache folder with its checksum in front. A copy
# that is damaged or cannot be written is made anew.

VEGA_LITE: Final = ".".join(alt.SCHEMA_VERSION.split(".")[:2])


@cache
def vega() -> str:
    """Vega, Vega-Lite and their embedder, of the version that Altair writes for."""
    # Both versions in the name: after an update an old bundle must not be taken.
    name = f"vega-{VEGA_LITE}-{metadata.version('vl-convert-python')}.js"
    place = cache_folder(os.environ)

    def bundle() -> str:
        text = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
        # Inside a page the program must not end its own script element.
        return text.replace("</script", "<\\/script")

    return cached(place and place / name, bundle)


def cache_folder(environment: Mapping[str, str]) -> Path | None:
    """Where what we keep for this user is; None where nothing says so."""
    if base := environment.get("XDG_CACHE_HOME"):
        return Path(base) / "tbench"
    home = environment.get("HOME")
    return Path(home) / ".cache" / "tbench" if home else None


def cached(path: Path | None, make: Callable[[], str]) -> str:
    """What a file holds, or what `make` gives where there is no sound one; it is kept if it can be."""
    if path is None:
        return make()
    with contextlib.suppress(OSError, UnicodeError):
        digest, _, text = path.read_bytes().decode().partition("\n")
        # A file that was cut short, or meddled with, would be run by every page: it is made anew.
        if digest == hashlib.sha256(text.encode()).hexdigest():
            return text
    text = make()
    with contextlib.suppress(OSError):
        _write(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
    return text


def _write(path: Path, text: str) -> None:
    """All of it or nothing, even where two processes do it at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In the same folder, since only within one file system is a rename all or nothing.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(text.encode())
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink()
            raise


# Pictures as files: each chart of a report as PNG and SVG, for a slide or a document. Nothing is fetched.

WIDTH: Final = 720
"""Pixels; the PNG has twice as many of them."""
SCALE: Final = 2
QUIET: Final = "#565d66"
INK: Final = "#1a1d21"
"""What text and lines have where no page gives them a colour."""


def pictures(by_name: Mapping[str, Picture], about: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File names with their contents, two for each picture: NAME.svg and NAME.png.

    `about` stands under each title, line by line: away from its page a picture has to say whose it is. It
    is of a fixed width and on white.
    """
    title: dict[str, Any] = {"anchor": "start", "fontSize": 15, "color": INK, "offset": 12}
    title |= {"subtitle": list(about), "subtitleColor": QUIET, "subtitleFontSize": 11}
    for name, picture in by_name.items():
        text = json.dumps(picture.spec).replace('"currentColor"', json.dumps(INK))
        spec: dict[str, Any] = json.loads(text)
        spec["config"] |= {"background": "#ffffff", "font": "sans-serif"}
        spec |= {"width": WIDTH, "padding": 14, "title": {"text": picture.title, **title}}
        svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
        yield f"{name}.svg", svg.encode()
        png = vl_convert.vegalite_to_png(
            spec, vl_version=VEGA_LITE, scale=SCALE, allowed_base_urls=[]
        )
        yield f"{name}.png", png
