"""The simulator's language: one token is four bytes of UTF-8, the last one of a text may be shorter.

The words are ours and made to fit (a space and three, or seven, letters), so that what is generated as
N tokens counts as N tokens when it comes back as history: usage is exact on both sides.
"""

from random import Random
from zlib import crc32

TOKEN_BYTES = 4
END_OF_TURN = 128009
"""The token id that ends a turn."""


def _list(words: str) -> list[str]:
    return words.split()


OPENERS = ("Here", "This", "When", "Most", "Some", "Each", "Once", "Well")
STARTS = (" The", " Our", " One", " Any", " All", " Now", " Yet", " But")
ENDS = (" it.", " us.", " so.", " up.", " on.", " me.", " go.", " by.")
SHORT = _list(
    " old new big red sun sea oak sky day way map key sum set row log bit arc air art bay box bus cap "
    "car cup dot ear egg end eye far few fig fir fog for gap gas has hat hen hue ice ink ivy jar joy kit "
    "lab law leg lid lot low may mix net nut oil one own pan pen pin pot raw ray rim rye sap see six tea "
    "ten tie tin toy two urn use van vat via web wet win yes zip"
)
LONG = _list(
    "morning evening harvest journey compass lantern harbour village balance measure passage pattern "
    "present private process produce project promise quality quarter reading reasons science section "
    "segment silence station storage stretch subject surface texture thunder trouble variety venture "
    "version walking weather welcome western whether whisper without writing printer archive channel"
)
ASIDES = (" —", " to,", " at,", " in,", " is,")


def count(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text.encode()) // TOKEN_BYTES)


def token_id(piece: str) -> int:
    """A stable number for a token's text, below the special ones."""
    return crc32(piece.encode()) % 128_000


def prose(rng: Random, tokens: int) -> list[str]:
    """Exactly so many tokens of running text, each a string of four bytes."""
    pieces = [rng.choice(OPENERS)]
    while len(pieces) < tokens:
        pieces += _sentence(rng)
    return pieces[:tokens] if tokens > 0 else []


def split(text: str) -> list[str]:
    """A given text, cut into its tokens; no character is torn, so a piece may pass four bytes."""
    pieces: list[str] = []
    held = ""
    for character in text:
        held += character
        if len(held.encode()) >= TOKEN_BYTES:
            pieces.append(held)
            held = ""
    return [*pieces, held] if held else pieces


def _sentence(rng: Random) -> list[str]:
    pieces = []
    for _ in range(rng.randint(2, 6)):
        if rng.random() < 0.3:
            word = " " + rng.choice(LONG)
            pieces += [word[:TOKEN_BYTES], word[TOKEN_BYTES:]]
        pieces.append(" " + rng.choice(SHORT) if rng.random() < 0.9 else rng.choice(ASIDES))
    return [*pieces, rng.choice(ENDS), rng.choice(STARTS)]
