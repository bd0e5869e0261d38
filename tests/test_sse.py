"""The event-stream parser against the standard's own examples, and under every cut of the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbench.capture.errors import InputError
from tbench.capture.sse import Event, EventStream


def parse(*pieces: bytes) -> list[Event]:
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)] + stream.end()


def datas(*pieces: bytes) -> list[bytes]:
    return [event.data for event in parse(*pieces)]


LINES = st.sampled_from(
    [
        *(
            b"data: x",
            b"data:y",
            b"data:  two",
            b"data",
            b"data:",
            b": comment",
            b":",
            b"event: error",
        ),
        *(b"event", b"id: 7", b"id", b"id: a\0b", b"retry: 10", b"unknown: z", b"", b"", b""),
        *("data: é☃".encode(), b"\xef\xbb\xbfdata: bom", b"data: [DONE]", b"data: \xff\xfe"),
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=24).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    whole = draw(STREAMS) + draw(st.sampled_from([b"", b"data: tail", b"data", b"\r"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@given(cut_streams())
def test_cuts_do_not_matter(pieces: list[bytes]) -> None:
    """Events are the same wherever the network cuts the bytes."""
    whole = b"".join(pieces)
    assert parse(*pieces) == parse(whole)
    assert parse(*(bytes([byte]) for byte in whole)) == parse(whole)


def by_the_book(whole: bytes) -> list[tuple[str, str, str]]:
    """The standard's algorithm, step by step, on decoded text; the last blank line is supplied."""
    text = whole.decode(errors="replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n").replace("\r", "\n") + "\n\n"
    events, data, kind, last = [], "", "", ""
    for line in text.split("\n"):
        if not line:
            if data:
                events.append((data[:-1], kind or "message", last))
            data, kind = "", ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            data += value + "\n" if name == "data" else ""
            kind = value if name == "event" else kind
            last = value if name == "id" and "\0" not in value else last
    return events


@given(STREAMS)
def test_agrees_with_the_standards_algorithm(whole: bytes) -> None:
    """A literal implementation of WHATWG HTML 9.2.6 gives the same data, types and ids."""
    found = [(e.data.decode(errors="replace"), e.event, e.id or "") for e in parse(whole)]
    assert found == by_the_book(whole)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_events_are_due_at_their_blank_line(end: bytes) -> None:
    """An event comes with the byte that ends its blank line, whichever line ending is used."""
    stream = EventStream()
    assert stream.feed(b"data: x" + end) == []
    assert stream.feed(end[:1]) == [Event(b"x")]
    assert stream.feed(end[1:] + b"data: y" + end + end) == [Event(b"y")]
    assert stream.end() == []


def test_the_examples_of_the_standard() -> None:
    """The examples of WHATWG HTML 9.2.6, with the last event kept as documented."""
    assert datas(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [b"YHOO\n+2\n10"]
    assert datas(b"data\n\ndata\ndata\n\ndata:") == [b"", b"\n", b""]
    assert datas(b"data:test\n\ndata: test\n\n") == [b"test", b"test"]
    stream = (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event"
    )
    assert parse(stream) == [
        Event(b"first event", "message", "1"),
        Event(b"second event", "message", ""),
        Event(b" third event", "message", ""),
    ]


def test_comments_alone_are_no_event() -> None:
    """OpenRouter's keep-alives pass without a trace."""
    assert parse(b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n") == []


def test_named_events_without_data_are_dropped() -> None:
    """An event's type does not carry over to the next event."""
    assert parse(b"event: ping\n\ndata: x\n\n") == [Event(b"x")]


def test_a_byte_order_mark_is_dropped_once_even_in_pieces() -> None:
    """The mark belongs to the encoding, not to the first field's name."""
    assert datas(b"\xef", b"\xbb", b"\xbfdata: x\n\n") == [b"x"]
    assert datas(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n") == []


def test_an_unterminated_last_event_comes_at_the_end() -> None:
    """A server that closes without the blank line loses nothing."""
    stream = EventStream()
    assert stream.feed(b"data: x\n\ndata: [DONE]") == [Event(b"x")]
    assert stream.end() == [Event(b"[DONE]")]
    assert stream.end() == []


def test_an_endless_event_is_refused() -> None:
    """Memory is bounded: a stream without blank lines ends in one clear error."""
    stream = EventStream(max_event_bytes=100)
    stream.feed(b"data: " + b"x" * 90)
    with pytest.raises(InputError, match="100 bytes without a blank line"):
        stream.feed(b"x" * 5)


def test_many_events_beyond_the_limit_pass() -> None:
    """The limit is for one event, not for the stream."""
    stream = EventStream(max_event_bytes=100)
    assert sum(len(stream.feed(b"data: " + b"x" * 50 + b"\n\n")) for _ in range(50)) == 50
