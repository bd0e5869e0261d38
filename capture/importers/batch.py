"""OpenAI batch input, and Together's: a line for each request, `custom_id` and `body`, without times."""

from collections.abc import Iterator

from tbench.capture.importers.importer import (
    CHAT,
    CUT_SHORT,
    Call,
    Importer,
    LeftOut,
    Row,
    dumped,
    is_cut,
    path_for,
    text,
    unpacked,
)


def calls(row: Row) -> Iterator[Call | LeftOut]:
    """The request of one line; Together's lines name no endpoint, so the members of the body tell it."""
    body = unpacked(row.get("body"))
    if "response" in row and body is None:
        yield LeftOut("of a batch's output: give its input file")
    elif is_cut(row.get("body")):
        yield CUT_SHORT
    elif not isinstance(body, dict):
        yield LeftOut("without a body")
    else:
        yield Call(
            path=text(row.get("url")) or path_for(body) or CHAT,
            method=text(row.get("method")) or "POST",
            model=text(body.get("model")),
            body=dumped(body),
        )


BATCH = Importer(
    calls=calls,
    matches=lambda row: "custom_id" in row and ("body" in row or "response" in row),
    trust={},
    cannot="arrivals, answers, latencies",
)
