"""A sheet as a page: its picture with tooltips, its data and its program, in a file that needs no other."""

import base64
import hashlib
import json
from typing import Any, Final

from tbench.analysis.report import vega
from tbench.analysis.report.markup import Html, join, tag

DRAW: Final = (
    'vegaEmbed(document.getElementById("sheet"), JSON.parse(document.getElementById("spec").textContent),'
    '{ actions: false, ast: true, renderer: "svg" }).then('
    '() => document.body.classList.add("drawn"), (error) => {'
    'document.getElementById("sheet").textContent = `This picture could not be drawn: ${error}`; });'
)
STYLE: Final = (
    "body { margin: 16px; background: #ffffff; color: #1a1d21; font-family: sans-serif; }"
)


def page(title: str, spec: dict[str, Any]) -> str:
    """The page of one Vega-Lite specification; nothing in its data can become markup."""
    scripts = (vega.script(), DRAW)
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag(
        "body",
        tag("div", id="sheet"),
        tag("noscript", "The picture is drawn by a script, which is in this page and did not run."),
        tag("script", Html(_json(spec)), type="application/json", id="spec"),
        join([tag("script", Html(script)) for script in scripts]),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _json(data: object) -> str:
    """JSON that ends no script element, whatever is in it."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
