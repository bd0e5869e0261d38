"""Stand-ins: what is written instead of a text, a name, an id, a number or a picture, under one key.

Equal in, equal out. Texts are made up block by block, each block by a keyed hash (BLAKE2b) of itself and of
all before it in its text: texts that begin alike go on alike up to the block in which they part. Near the
beginning of a text a block begins with steps, each made up by what comes before its end: there they go on
alike up to the step.

They are made of stems. Each is one token, with a space before it and without, for the vocabularies cl100k
and o200k, of Claude 2 and of DeepSeek, and none is an English word of its own: what is made of them holds no
piece of anybody's text.
"""

import hmac
import math
import re
import secrets
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, sha256, shake_128
from itertools import accumulate, batched, pairwise
from struct import unpack
from typing import Any, Final, NamedTuple

import orjson

from tbench.capture.jsontext import rewritten
from tbench.capture.synthesis.images import blank, pixels_of
from tbench.capture.synthesis.tokens import Counted

# The language of made-up text.

_STEMS: Final = """
    a b c d e f g h i j k l m n o p q r s t u v w x y z ac af ak ap av az bc bl br bu cc cd ce cf cl cm
    cp cr cs cu cx cy db dc dd df dh dj dr du eb ec eg ep ev fi fl fn fr fs ga ge gh gl gn gp gr gy hp hr
    ib ic ie ig ii im ip ir iv js ju kb ke kg km kn lb le ll ls ly mc md mg ml mp mt ng ni nm np ns ol ot
    ov pc pg ph pl pm pp pr ps pt pu py qu ra rc rg ro rs ru sa sc sd sk sl sm sn sp sq sr ss su sv sw sy
    tc td tf th tr ts tu tv tw tx ty ub ul va ve vi vm vo acc adj adm adv agg ali alk amb ang ank api aqu
    arc arg arr asc ath aud aug aut aux avg ber bil ble bol bre buf bul cal cas cer cho cir cle cmd cou
    cov cpu cre cro cul dec dem dep der det dir doi dra dro dst dur ect ele enc enh ent env equ err esc
    esp exc exp ext fac fal fel fer flu fmt fol fre ful gal geo gle gly gra gre gro hel hol hor hyp iii
    img inc ind inf inh int inv iss jan kan kil lan len lic lik lim liv loc msg mul mur nav neo ner obj
    occ oct ont opp org pag pdf php pid ple pol por pra pri psy ptr pts qui rac rel req rgb ric ris rot
    sch scr sem sep seq sig sil soc spe sql src ssh std ste str sur sym sys tal tem ter tim tmp tra tre
    tri tro tur typ ult unc und upt val vec vel ver vic vil vir viz von wel wid wik wor xml abol acet
    addr alle anch anim anth appe aren args arte athe auth bour brid bron calc capt cele chem circ clin
    coli conc cont conv cout decl desc dest disp educ elim eman ende enum este eval expl expr fram func
    goto href html http imag impl incl init inst isol json larg lect lett mant medi mult nost oper orig
    orth oste phen phys pred pres prev priv pron prot prov qual quer radi rece rect repr requ resp reve
    rupt serv stre stro sudo uint unic util vari virt accur activ alloc annot arter aston async autom
    chlor chrom chron const contr coord elong endif gener https indic ingen mysql numer occup optim param
    polit produ regex spect techn verte
"""
STEMS: Final = [[stem for stem in _STEMS.split() if len(stem) == size] for size in range(1, 6)]
"""By their letters, from one to five."""
LONGEST: Final = len(STEMS)
FEWEST: Final = 1 / (LONGEST + 1)
"""Tokens a byte, at the least."""
MARKS: Final = "0123456789", "abcdefghijklmnopqrstuvwxyz"
"""A digit, a letter, a digit, ...: each is a token."""

PIECE: Final = re.compile(
    r"[^\r\n\w]?[^\W\d_]+|\d{1,3}| ?(?:[^\w\s]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""What tokenizers of today cut a text into before they look for tokens; no token is in two of these."""
_BLANK: Final = r" \t\n\r\f\v\x1c-\x1f"
ASCII_PIECE: Final = re.compile(
    r"[^\r\n0-9A-Za-z_]?+[A-Za-z]++|[0-9]{1,3}+"
    rf"| ?+[^0-9A-Za-z{_BLANK}]++[\r\n]*+|[{_BLANK}]*[\r\n]+|[{_BLANK}]+(?![^{_BLANK}])|[{_BLANK}]+"
)
"""The same of a text of ASCII, in half the time."""
REMEMBERED_PIECES: Final = 65_536


class PieceRule:
    """About how many tokens a text has, without a tokenizer: by words and marks, fitted to four of them."""

    source = "estimate by words and marks"

    def __init__(self) -> None:
        self._costs = _Costs()

    def ends(self, text: str) -> tuple[list[int], list[float]]:
        """Where in the text each piece of it ends, in characters, and how many tokens each has."""
        pieces = (ASCII_PIECE if text.isascii() else PIECE).findall(text)
        if len(self._costs) > REMEMBERED_PIECES:
            self._costs.clear()
        return list(accumulate(map(len, pieces))), list(map(self._costs.__getitem__, pieces))


class _Costs(dict[str, float]):
    """The tokens of pieces, remembered as they are asked for."""

    def __missing__(self, piece: str) -> float:
        if not piece.isascii():
            cost = max(1.0, 0.3 * len(piece.encode("utf-8", "replace")))
        elif piece[-1].isalpha():
            over = len(piece) - 5
            cost = 1.0 + (0.07 * over if 0 < over < 9 else 0.12 * over if over > 0 else 0.02)
        else:
            cost = 1.0 if piece[-1].isspace() or len(piece) <= 3 else 0.1 + 0.3 * len(piece)
        self[piece] = cost
        return cost


def prose(seed: bytes, size: int, tokens: int, lines: int = 0) -> str:
    """Made-up text of `size` bytes (ASCII) and about `tokens` tokens, the same for the same seed.

    It begins with a space, or where tokens are many with a digit. `lines` of its stems begin a line, as far
    as the tokens allow. More tokens than bytes, and fewer than FEWEST a byte, there cannot be.
    """
    number, shorter, lines, size, stems, longer = _form(size, tokens, lines)
    drawn = seed if len(seed) >= size else shake_128(seed).digest(size)
    text = "".join(map(stems.__getitem__, drawn[:shorter]))
    if shorter < number:
        text += "".join(map(longer.__getitem__, drawn[shorter:number]))
    if number < size:
        marks = enumerate(drawn[number:size])
        text += "".join(MARKS[place & 1][byte % len(MARKS[place & 1])] for place, byte in marks)
    if lines:
        text = text.replace(" ", "\n", lines + 1).replace("\n", " ", 1)
    return text


class _Form(NamedTuple):
    """What a text is made of: `number` stems, of which `shorter` are one letter shorter than the others.

    Behind them stand single characters, as many as `drawn` bytes are more. `lines` stems begin a line. A stem
    is looked up by a byte, with the space before it.
    """

    number: int
    shorter: int
    lines: int
    drawn: int
    stems: Sequence[str]
    longer: Sequence[str]


@lru_cache(maxsize=8_192)
def _form(size: int, tokens: int, lines: int) -> _Form:
    least = math.ceil(FEWEST * size)
    tokens = min(max(tokens, least), size)
    dense = 2 * tokens - size
    if (
        dense >= 0
    ):  # single letters and, as far as tokens are more, single characters without a space
        number = (size - dense) // 2
        return _Form(number, number, 0, number + dense, _SPACED[0], ())
    lines = min(lines, tokens // 3, tokens - least)
    number = tokens - lines  # a new line is a token, and the stem that begins it another
    letters, longer = divmod(size - number, number)
    more = _SPACED[letters] if longer else ()
    return _Form(number, number - longer, lines, number, _SPACED[letters - 1], more)


@lru_cache(maxsize=8_192)
def _steps(size: int, tokens: int) -> int:
    """The most steps that leave the rest of a block room for its tokens, and enough of them."""
    for steps in range((size - 1) // STEP_BYTES, 0, -1):
        size_left, tokens_left = size - steps * STEP_BYTES, tokens - steps * STEP_TOKENS
        if _form(size_left, tokens_left, 0).drawn == tokens_left >= UNSTEPPED_TOKENS:
            return steps
    return 0


_SPACED: Final = [[f" {stems[byte % len(stems)]}" for byte in range(256)] for stems in STEMS]


# Stand-ins.

BLOCK_BYTES: Final = 64
"""About 16 tokens, which is the block of most caches."""
FEWEST_TOKENS: Final = math.ceil(FEWEST * BLOCK_BYTES)
STEPPED_BYTES: Final = 1_024
"""Of a text: prompts that part behind these lose little by what they share of a block."""
STEP_BYTES: Final = 10
STEP_TOKENS: Final = 2
"""In any step, or its tokens would tell more of a text than those of a block do."""
UNSTEPPED_TOKENS: Final = 8
"""At the end of a block, made up by all of it: of 5, thousands of 100,000 numbered prompts came out equal."""
LEAST_BYTES: Final = 20
"""Of a last block: of 8 bytes, two stems, 1 of 50 among 100,000 numbered prompts came out as another did."""
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
        state, start, made_up, opens = self.hashed("block", b""), 0, list[str](), 1
        owed, lines = 0.0, 0
        escaped = data.translate(IS_ESCAPED)
        for end, count in zip(ends, counts, strict=True):
            # Fractions are carried over, or the rounding of each block would add up over a long text.
            owed += count
            tokens = round(owed)
            owed -= min(max(tokens, FEWEST_TOKENS), BLOCK_BYTES)  # as many as such a block can have
            lines += escaped.count(1, start, end)
            # Half of it names the block, for those behind it; of the other half it is made up.
            digest = blake2b(key=state)
            for _ in range(_steps(end - start, tokens) if start < STEPPED_BYTES else 0):
                digest.update(data[start : start + STEP_BYTES])
                made_up.append(prose(digest.digest()[32:], STEP_BYTES + opens, STEP_TOKENS))
                start, tokens, opens = start + STEP_BYTES, tokens - STEP_TOKENS, 0
            digest.update(data[start:end])
            state = digest.digest()[:32]
            made_up.append(prose(digest.digest()[32:], end - start + opens, tokens, lines))
            lines -= _form(end - start + opens, tokens, lines).lines
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
            return "".join(str(byte % 10) for byte in shake_128(seed).digest(size))
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
