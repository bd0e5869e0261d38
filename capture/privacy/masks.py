"""Masks: e-mail addresses, phone and card numbers and keys in texts that stay, as asterisks, in place.

A table of patterns and Luhn's check, for what has a form. Names and addresses have none: who needs them gone
takes the shape. A text that streamed is read as a whole, since what it names comes in pieces.
"""

import html
import json
import re
import unicodedata
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Final

from tbench.capture.decode import decode
from tbench.capture.errors import InputError
from tbench.capture.exchange import Request, Response
from tbench.capture.providers import is_stream

PATTERNS: Final = {
    "e-mail addresses": re.compile(
        rb"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z\d-]{1,63}(?:\.[A-Za-z\d-]{1,63}){1,8}"
    ),
    "keys": re.compile(
        rb"(?<![\w-])(?:sk|pk|rk|gsk|tgp|fw|hf|r8|xai|key|ghp|gho|github_pat|xox[abprs]|AIza|AKIA|eyJ)"
        rb"(?=[\w.-]{0,200}\d)[\w.-]{12,}"
    ),
    "card numbers": re.compile(rb"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])"),
    "phone numbers": re.compile(
        rb"(?<![\w.+])\+\d(?:[ .()/-]{0,2}\d){7,14}(?![\w-])"
        rb"|(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
    ),
}
"""In the order in which they are looked for: a card's number is no phone's."""
_INNER: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_END: Final = rb'(?:"|\\?\Z)'
"""A literal may lack its end, where the body was cut off."""
_LITERAL: Final = re.compile(rb'"(' + _INNER + rb")" + _END, re.DOTALL)
_SPOKEN: Final = re.compile(
    rb'"(content|text|delta|arguments|partial_json|reasoning|reasoning_content|thinking|refusal|transcript)"'
    rb'\s*:\s*"(' + _INNER + rb")" + _END,
    re.DOTALL,
)
_NUMBER: Final = rb"-?\d[\d.eE+-]*"
_TOKENS: Final = re.compile(
    rb'("(?:token|token_id|token_ids|prompt_token_ids|(?:tokens|bytes)(?!"\s*:\s*\d))"\s*:\s*)'
    rb'("' + _INNER + rb'"|' + _NUMBER + rb'|\[[^]"[]*(?:"' + _INNER + rb'"[^]"[]*)*\])',
    re.DOTALL,
)
"""Where a server tells the text once more, token by token: ids, and beside log probabilities; not where it
counts them."""
_TOKEN: Final = re.compile(rb'"' + _INNER + rb'"|' + _NUMBER, re.DOTALL)
_INDEX: Final = re.compile(rb'"(?:index|output_index|content_index)"\s*:\s*(\d+)')
_TYPE: Final = re.compile(rb'"type"\s*:\s*"([\w.]+)"')
_SPELLING: Final = re.compile(
    rb"\\(?:u[\da-fA-F]{4}|x[\da-fA-F]{2}|.)"  # in JSON, and in what code quotes
    rb"|%[\da-fA-F]{2}"  # in an address
    rb"|&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z]{2,31});"  # in HTML
    rb"|[\xc2-\xf4][\x80-\xbf]{1,3}",
    re.DOTALL,
)
"""What may stand for another character: an escape, or one that looks like it (full width)."""
_SHORT: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
LEVELS: Final = 4
"""JSON is read within JSON within JSON (the arguments of a tool that quote another's), and what it spells."""
_BLOB: Final = re.compile(rb"data:[^,\s]*,[A-Za-z\d+/=_\\-]*|[A-Za-z\d+/=_\\-]{200,}")
"""Base64, in which a pattern would be chance."""


class Masks:
    """Masks what has a form in the bodies of records; `counts` says how often each kind was there."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def request(self, request: Request) -> Request:
        """The request with its body masked; without it, where it is encoded and names anything."""
        return self._masked(request)

    def response(self, response: Response) -> Response:
        """The same for a response, whose chunks stay as they were."""
        return self._masked(response)

    def _masked[Record: Request | Response](self, record: Record) -> Record:
        body, coding = record.body, record.header("content-encoding") or ""
        if not body:
            return record
        try:
            plain = decode(body, coding)
        except InputError:
            plain = body
        masked = self.mask(plain, record.header("content-type") or "")
        if masked == plain:
            return record
        if plain == body:
            return replace(record, body=masked)
        return replace(record, body=None, extra={**record.extra, "body_withheld": "masked"})

    def mask(self, body: bytes, content_type: str = "") -> bytes:
        """JSON, or events of it, in which as many asterisks stand for what a pattern finds in a text."""
        masked = bytearray(body)
        for texts in _texts(body, content_type):
            text = b"".join(body[start:end] for start, end in texts)
            for name, first, last in _spans(text):
                new, offset = False, 0
                for start, end in texts:
                    begin = max(start, start + first - offset)
                    stop = min(end, start + last - offset)
                    offset += end - start
                    if begin < stop:
                        new = new or masked[begin:stop].strip(b"*") != b""
                        masked[begin:stop] = b"*" * (stop - begin)
                self.counts[name] += new
        if masked == body:
            return body
        return _TOKENS.sub(lambda told: told[1] + _TOKEN.sub(_hidden, told[2]), bytes(masked))


Places = list[tuple[int, int]]
"""Where in a body the pieces of one text are."""


def _texts(body: bytes, content_type: str) -> Iterator[Places]:
    """The texts of a body: the inside of each literal, and of a stream what events say together."""
    for literal in _LITERAL.finditer(body):
        if not _BLOB.fullmatch(literal[1]):
            yield [literal.span(1)]
    if not is_stream([(0.0, body)], content_type):
        yield from _plain(body)
        return
    slots: dict[tuple[object, ...], Places] = defaultdict(list)
    place = 0
    for line in body.splitlines(keepends=True):
        if b"{" not in line:
            yield [(place, place + len(line))]
        kind, indexes = _TYPE.search(line), _INDEX.findall(line)
        for spoken in _SPOKEN.finditer(line):
            start, end = spoken.span(2)
            slot = (spoken[1], kind and kind[1], *indexes)
            slots[slot].append((place + start, place + end))
        place += len(line)
    yield from slots.values()


def _plain(body: bytes) -> Iterator[Places]:
    """The parts of a body that is no JSON (a text, a form, what was cut off), as far as they are text."""
    lines = body.splitlines()
    # Half a character is no fault, and a number is no text; nor is it in an object a line, as Ollama streams.
    for texts in ([body], lines if all(line[:1] == b"{" for line in lines) else []):
        with suppress(ValueError, RecursionError):
            if [json.loads(text) for text in texts]:
                return
    place = 0
    for part in body.split(b"\r\n--"):  # as the boundaries of a form begin
        try:
            part.decode()
            is_text = True
        except UnicodeDecodeError as error:
            is_text = len(part) - error.start < 4  # cut off within a character
        if is_text:
            yield [(place, place + len(part))]
        place += len(part) + 4


def _hidden(told: re.Match[bytes]) -> bytes:
    """JSON as long as this string or number, without what it says."""
    if told[0][:1] != b'"':
        return b"0".ljust(len(told[0]))
    return b'"' + b"*" * (len(told[0]) - 2) + b'"'


def _spans(text: bytes) -> Iterator[tuple[str, int, int]]:
    """What each pattern finds in the inside of a literal, read as whoever parses it does.

    An escape is the character that it stands for (of an @, its number), in JSON within JSON, in an address
    and in HTML as well; found in it is what is found around it, down to its last byte.
    """
    read, levels = bytearray(text), list[_Escapes]()
    for _ in range(LEVELS):
        escapes = _Escapes(bytes(read))
        if levels and not escapes:
            return
        read = escapes.read
        # The last one read stands first: a place is carried back through the levels in this order.
        levels.insert(0, escapes)
        for name, pattern in PATTERNS.items():
            for match in pattern.finditer(read):
                if name != "card numbers" or _sums_up(match[0]):
                    first, last = match.span()
                    # Blanked, or the next pattern, and the next level, would find it once more.
                    read[first:last] = b" " * (last - first)
                    for level in levels:
                        first, last = level.place(first), level.place(last - 1, end=True)
                    yield name, first, last


class _Escapes:
    """A text without its escapes, `read`, and where each byte of it was."""

    def __init__(self, text: bytes) -> None:
        self.read = bytearray()
        self._starts: list[int] = []
        self._where: list[tuple[int, int, int, int]] = []
        place = 0
        for escape in _SPELLING.finditer(text):
            character = _character(escape[0])
            if character == escape[0]:
                continue
            self.read += text[place : escape.start()]
            place = escape.end()
            self._starts.append(len(self.read))
            self._where.append((len(self.read), len(character), *escape.span()))
            self.read += character
        self.read += text[place:]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def place(self, at: int, *, end: bool = False) -> int:
        """Where a byte of what was read begins in the text, or behind which it ends there."""
        number = bisect_right(self._starts, at) - 1
        if number < 0:
            return at + end
        start, length, first, last = self._where[number]
        if at < start + length:
            return last if end else first
        return last + at - start - length + end


@lru_cache(maxsize=4096)
def _character(written: bytes) -> bytes:
    """The bytes of the character that is meant; the same where it is none other."""
    match written[:1]:
        case b"\\" if written[1:2] in (b"u", b"x") and len(written) > 2:
            return chr(int(written[2:].decode(), 16)).encode("utf-8", "surrogatepass")
        case b"\\":
            return _SHORT.get(written[1:], written[1:])
        case b"%":
            return bytes([int(written[1:], 16)])
        case b"&":
            return html.unescape(written.decode()).encode("utf-8", "surrogatepass")
    try:
        character = written.decode()
    except UnicodeDecodeError:
        return written
    kind = unicodedata.category(character)
    if kind in _LOOKS:
        return _LOOKS[kind]
    if kind == "Nd":
        return b"%d" % unicodedata.decimal(character)
    plain = unicodedata.normalize("NFKC", character)
    return plain.encode() if len(plain) == 1 and plain.isascii() else written


_LOOKS: Final = {"Cf": b"", "Zs": b" ", "Pd": b"-"}
"""By its category a character that nobody sees (of no width), a blank (one that does not break), a dash."""


def _sums_up(number: bytes) -> bool:
    """Luhn's check: of the digits from the right, every second one doubled, as the sum of its digits."""
    digits = [int(digit) for digit in re.findall(rb"\d", number)][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
