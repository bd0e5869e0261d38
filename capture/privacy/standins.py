"""Stand-ins: what is written instead of a text, a name, an id, a number or a picture, under one key.

Equal in, equal out. Texts are made up block by block, each block by a keyed hash (BLAKE2b) of itself and of
all before it in its text: texts that begin alike go on alike up to the block in which they part.
"""

import hmac
import math
import re
import secrets
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b, sha256, shake_128
from itertools import accumulate, batched, pairwise
from struct import unpack
from typing import Any, Final

import orjson

from tbench.capture.jsontext import rewritten
from tbench.capture.privacy.words import FEWEST, PieceRule, prose
from tbench.capture.synthesis.images import blank, pixels_of
from tbench.capture.synthesis.tokens import Counted

BLOCK_BYTES: Final = 64
"""About 16 tokens, which is the block of most caches."""
FEWEST_TOKENS: Final = math.ceil(FEWEST * BLOCK_BYTES)
LEAST_BYTES: Final = 8
"""Of a last block: of fewer bytes two might well come out alike."""
REMEMBERED_BYTES: Final = 32 << 20
"""Of texts and pictures that are not made up anew when a conversation sends them again."""
REMEMBERED_NAMES: Final = 100_000
LONGEST_NAME: Final = 64
ATTEMPTS: Final = 64
BLOCK_TOKENS: Final = 16
LEAST_TOKEN_ID: Final = 1_000
TOKEN_IDS: Final = 29_000
"""Made-up token ids: those that every vocabulary has, and none for single bytes."""
UNKNOWN_PIXELS: Final = (1120, 1120)
"""Of a picture that stands elsewhere, or cannot be read."""
MOST_PIXELS: Final = 1 << 25
LONGEST_SIDE: Final = 65_500
"""Of what libjpeg writes."""
MAKERS: Final = re.compile(
    r"(?:call|toolu|srvtoolu|fc|msg|rs|resp|chatcmpl|cmpl|req|run|fp|file|ctc)[_-]"
)
"""What ids begin with that their makers tell apart by it."""
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
IS_ESCAPED: Final = bytes(byte in b'"\\\n\r\t' for byte in range(256))
"""What JSON writes as two bytes: so many lines begin in what is made up, which keeps the size of the JSON."""


class StandIns:
    """The stand-ins of one capture or redaction, for one thread. `tokens` counts those of the originals."""

    def __init__(self, key: bytes | None = None, tokens: Counted | None = None) -> None:
        # Of its own, where another use of the key makes pseudonyms, too.
        self._key = hmac.digest(key or secrets.token_bytes(32), b"stand-ins", sha256)
        self._tokens = tokens or PieceRule()
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._bytes = 0
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self.counts: Counter[str] = Counter()
        """How many of each kind were put in an original's place."""

    @property
    def source(self) -> str:
        """How tokens of texts are counted."""
        return self._tokens.source

    def hashed(self, kind: str, value: str | bytes, *before: bytes) -> bytes:
        """32 bytes that stand for a value among those of its kind; nobody without the key can make them."""
        data = value.encode("utf-8", "replace") if isinstance(value, str) else value
        return hmac.digest(self._key, b"\0".join([kind.encode(), *before, data]), "sha256")

    def text(self, original: str) -> str:
        """As many bytes and tokens of made-up text, ASCII."""
        self.counts["texts"] += 1
        if not original:
            return ""
        name = self.hashed("text", original)
        known = self._texts.get(name)
        return self._keep(name, self._prose(original)) if known is None else known

    def _keep(self, name: bytes, made_up: str) -> str:
        """Remember what was made up last, within bounds."""
        self._texts[name] = made_up
        self._bytes += len(made_up)
        while self._bytes > REMEMBERED_BYTES:
            self._bytes -= len(self._texts.popitem(last=False)[1])
        return made_up

    def _prose(self, original: str) -> str:
        data = original.encode("utf-8", "replace")
        original = data.decode()  # half a character, which JSON can spell, has no bytes
        ends = [*range(BLOCK_BYTES, len(data) - LEAST_BYTES, BLOCK_BYTES), len(data)]
        counts = self._counts(original, ends)
        # The first one begins with a stem, which needs no space before it.
        state, start, made_up, owed, opens = self.hashed("block", b""), 0, list[str](), 0.0, 1
        escaped = data.translate(IS_ESCAPED)
        for end, count in zip(ends, counts, strict=True):
            # Half of it names the block, for those behind it; of the other half it is made up.
            digest = blake2b(data[start:end], key=state).digest()
            state = digest[:32]
            owed += count
            tokens = round(owed)
            owed -= min(max(tokens, FEWEST_TOKENS), BLOCK_BYTES)  # as many as such a block can have
            lines = escaped.count(1, start, end)
            made_up.append(prose(digest[32:], end - start + opens, tokens, lines))
            start, opens = end, 0
        return "".join(made_up)[1:]

    def _counts(self, original: str, ends: list[int]) -> list[float]:
        """How many tokens end in each block; those that end where it ends count in the next one.

        So what follows a block, in one text and not in another, changes nothing in it.
        """
        places, tokens = self._tokens.ends(original)
        if not original.isascii():
            pieces = (original[start:end] for start, end in pairwise([0, *places]))
            places = list(accumulate(len(piece.encode()) for piece in pieces))
        cuts = [bisect_left(places, end) for end in ends[:-1]]
        return [sum(tokens[start:end]) for start, end in pairwise([0, *cuts, len(tokens)])]

    def token_ids(self, originals: Sequence[int]) -> list[int]:
        """As many tokens of a prompt, equal as far as blocks of 16 and all before them are."""
        self.counts["token id lists"] += 1
        state, made_up = self.hashed("token ids", b""), list[int]()
        for block in batched(originals, BLOCK_TOKENS):
            state = hmac.digest(state, repr(block).encode(), sha256)
            drawn = unpack(f"<{len(block)}H", shake_128(state).digest(2 * len(block)))
            made_up += [LEAST_TOKEN_ID + number % TOKEN_IDS for number in drawn]
        return made_up

    def name(self, original: str) -> str:
        """A name as long, of letters and underscores (of digits, where it is a number).

        What is called differently stays so, for the first REMEMBERED_NAMES names that are no longer than any
        API allows; of others, short ones may come out alike.
        """
        self.counts["names"] += 1
        if (known := self._names.get(original)) is not None:
            return known
        candidates = (self._name(original, attempt) for attempt in range(ATTEMPTS))
        made_up = next((name for name in candidates if name not in self._taken), "")
        made_up = made_up or self._name(original, 0)
        if len(self._names) < REMEMBERED_NAMES and len(original) <= LONGEST_NAME:
            self._names[original] = made_up
            self._taken.add(made_up)
        return made_up

    def _name(self, original: str, attempt: int) -> str:
        size = len(original.encode("utf-8", "replace"))
        seed = self.hashed("name", original, b"%d" % attempt)
        if original.isdigit():
            return self._digits(seed, size)
        if size < 3:
            return "".join(LETTERS[byte % len(LETTERS)] for byte in seed[:size])
        return prose(seed, size + 1, -(-size // 5))[1:].replace(" ", "_")

    def ident(self, original: str) -> str:
        """An id as long: what makers begin theirs with, and hexadecimal digits."""
        self.counts["ids"] += 1
        known = MAKERS.match(original)
        maker = known[0] if known else ""
        size = len(original.encode("utf-8", "replace")) - len(maker)
        return maker + shake_128(self.hashed("id", original)).hexdigest(size // 2 + 1)[:size]

    def number(self, original: float) -> Any:  # noqa: ANN401 (an int or a float)
        """A number with as many digits."""
        self.counts["numbers"] += 1
        shown = rewritten(original).decode()
        digits = iter(shake_128(self.hashed("number", shown)).digest(len(shown)))
        mantissa, mark, exponent = shown.partition("e")
        made_up = "".join(
            str(1 + next(digits) % 9) if char.isdigit() else char for char in mantissa
        )
        # No double holds the larger ones to the power of 308.
        return orjson.loads(made_up + mark + exponent.replace("308", "307"))

    def picture(self, encoded: str) -> str:
        """A JPEG in base64, of one colour, of the pixels and about the bytes of a picture in base64."""
        self.counts["images"] += 1
        name = self.hashed("picture", encoded)
        if (known := self._texts.get(name)) is not None:
            return known
        try:
            data = b64decode(encoded)
        except ValueError:  # not in base64, or not even in ASCII
            data = b""
        width, height = pixels_of(data) or UNKNOWN_PIXELS
        if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
            width, height = UNKNOWN_PIXELS
        return self._keep(name, b64encode(blank(name, (width, height), len(data))).decode())

    def blob(self, original: str) -> str:
        """Bytes in base64, as many."""
        self.counts["blobs"] += 1
        size = len(original)
        drawn = shake_128(self.hashed("blob", original)).digest(size * 3 // 4 + 3)
        return b64encode(drawn).decode()[:size]

    def _digits(self, seed: bytes, size: int) -> str:
        return "".join(str(byte % 10) for byte in shake_128(seed).digest(size))


class Blanks(StandIns):
    """Nothing of a text, not even its length: an asterisk. Names and ids are made up all the same."""

    def text(self, original: str) -> str:
        """An asterisk for any text, so that a stream still shows when its tokens came."""
        self.counts["texts"] += bool(original)
        return "*" if original else ""

    def token_ids(self, originals: Sequence[int]) -> list[int]:
        """One token for any number of them."""
        self.counts["token id lists"] += 1
        return [LEAST_TOKEN_ID] if originals else []

    def picture(self, encoded: str) -> str:
        """Nothing."""
        self.counts["images"] += bool(encoded)
        return ""

    def blob(self, original: str) -> str:
        """Nothing."""
        self.counts["blobs"] += bool(original)
        return ""
