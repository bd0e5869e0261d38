"""Figures: pictures as elements of a page, with the data and the program that draw them.

Everything is in the page itself, and its content security policy forbids it to ask for more.
"""

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from analysis.drawing import Picture
from analysis.report import vega
from analysis.report.markup import Html, html, join, tag


def figures(pictures: Iterable[Picture | None], prefix: str) -> tuple[Html, dict[str, Picture]]:
    """The figures of a section, and the pictures by the id of the place where each is drawn."""
    named = {f"{prefix}-{k}": one for k, one in enumerate(filter(None, pictures))}
    return join(_figure(name, one) for name, one in named.items()), named


def _figure(name: str, picture: Picture) -> Html:
    return tag(
        "figure",
        tag("h3", picture.title),
        tag("div", id=name, class_="chart"),
        tag("figcaption", tag("p", picture.text), tag("p", picture.note, class_="quiet")),
    )


def document(title: str, body: Html, pictures: dict[str, Picture]) -> str:
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
    data = {name: picture.spec for name, picture in pictures.items()}
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


def _json(data: object) -> str:
    """JSON that ends no script element, whatever is in it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _part(name: str) -> str:
    return files("analysis.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
