"""Pictures as files: each chart of a report as PNG and SVG, for a slide or a document. Nothing is fetched."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import altair as alt
import vl_convert

from tbench.analysis.charts import Picture

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
