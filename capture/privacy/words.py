"""The language of made-up text: stems of one token each, of which no natural text is made.

Each is one token, with a space before it and without, for the vocabularies cl100k and o200k, of Claude 2 and
of DeepSeek, and none is an English word of its own: what is made of them holds no piece of anybody's text.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import shake_128
from itertools import accumulate
from typing import Final, NamedTuple

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
        self[piece] = cost = _cost(piece)
        return cost


def _cost(piece: str) -> float:
    if not piece.isascii():
        return max(1.0, 0.3 * len(piece.encode("utf-8", "replace")))
    if piece[-1].isalpha():
        over = len(piece) - 5
        return 1.0 + (0.07 * over if 0 < over < 9 else 0.12 * over if over > 0 else 0.02)
    return 1.0 if piece[-1].isspace() or len(piece) <= 3 else 0.1 + 0.3 * len(piece)


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


_SPACED: Final = [[f" {stems[byte % len(stems)]}" for byte in range(256)] for stems in STEMS]
