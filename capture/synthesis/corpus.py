"""The corpus: English sentences made from word lists and patterns of our own, by a seeded generator.

Nothing of it is copied from anywhere. The words are common ones, so that most of them are one token.
"""

import re
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Final

SENTENCES: Final = 4096
"""How many the pool holds; about 60,000 tokens."""


_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|un(?!i))")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "ADJ": _words(
        "old new small large quiet bright heavy light early late narrow wide cold warm plain "
        "strange local public private careful simple steady sudden gentle broken hidden open "
        "empty common rare modern useful patient honest curious busy distant familiar formal "
        "fresh general golden green grey modest natural northern ordinary painted perfect "
        "practical proper rapid recent regular remote round second secret serious sharp short "
        "silent slow soft solid southern special strong summer tall thick thin third typical "
        "unusual usual western wooden young"
    ),
    "NOUN": _words(
        "harbour engine garden letter market teacher window river station report lantern "
        "bridge village doctor captain library machine kitchen painter question mountain "
        "record signal student system table tower valley visitor warehouse weather winter "
        "worker writer account answer archive balance basket bell book branch camera "
        "carpenter chapter circle clerk clock coast committee corner cottage country cousin "
        "crowd curtain customer daughter desk detail driver engineer evening example factory "
        "farmer festival field fisherman forest friend gallery glass guard guide hall hotel "
        "house island journal journey key lake lamp lawyer lesson manager map member merchant "
        "message method mirror museum neighbour newspaper nurse office officer orchard paper "
        "passenger path pattern photograph pilot plan player process professor programme "
        "project road roof room sailor school scientist service shop singer sister soldier "
        "square stone storm story street summer supper surface telescope theatre ticket tool "
        "town train traveller tree tunnel turbine uncle university wall watch wheel"
    ),
    "VERB": _words(
        "carried moved opened closed painted repaired watched followed measured counted "
        "described found lost built cleaned covered crossed designed drew entered examined "
        "explained finished forgot founded heard held joined kept left lifted liked marked "
        "missed noticed ordered passed planned praised prepared protected pulled pushed "
        "reached read received recorded remembered replaced reported saved sold searched "
        "served shaped showed started stopped studied tested touched turned used visited "
        "wanted washed welcomed"
    ),
    "PREP": _words(
        "near behind above below beside under over inside outside across along around beyond "
        "against before after toward without through past"
    ),
    "ADV": _words(
        "often slowly quickly quietly carefully rarely always usually finally suddenly again "
        "soon later already almost perhaps clearly gladly simply together twice"
    ),
    "WHEN": _words(
        "yesterday today tomorrow tonight sometimes eventually meanwhile afterwards recently once"
    ),
    "NUMBER": _words(
        "two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty "
        "sixty hundred"
    ),
    "PLURAL": _words(
        "boxes letters lamps chairs windows ships roads stones birds horses coins maps books "
        "bottles doors fields flowers gates hills islands keys nights papers plates pages "
        "rivers rooms shops songs stories tables tickets tools towers trains trees villages "
        "walls weeks wheels winters years"
    ),
    "ASK": _words(
        "Explain Describe Summarise Compare Review Discuss Consider Outline Rewrite Translate "
        "Continue Check Correct Improve Plan Estimate"
    ),
}

PATTERNS: Final = (
    "The ADJ NOUN VERB the NOUN PREP the NOUN.",
    "WHEN the NOUN VERB NUMBER PLURAL PREP the ADJ NOUN.",
    "A NOUN and a NOUN ADV VERB the ADJ PLURAL.",
    "In the NOUN there were NUMBER ADJ PLURAL, and the NOUN VERB them ADV.",
    "Our NOUN said that the ADJ NOUN VERB every NOUN PREP the NOUN.",
    "No one VERB the NOUN until the NOUN VERB the PLURAL.",
    "Because the NOUN was ADJ, the NOUN VERB it PREP the NOUN.",
    "Each NOUN VERB its own NOUN, but only the ADJ one VERB the NOUN.",
    "They VERB the PLURAL for NUMBER PLURAL and then VERB the NOUN.",
    "If the NOUN is ADJ, the PLURAL are ADV ADJ.",
    "The PLURAL PREP the NOUN were ADJ and the NOUN was ADJ.",
    "It was the NOUN, not the NOUN, that VERB the PLURAL.",
    "Some PLURAL are ADJ; others are ADJ and ADV ADJ.",
    "Who VERB the ADJ NOUN PREP the NOUN?",
    "With NUMBER PLURAL and a ADJ NOUN, the NOUN VERB the NOUN.",
    "Nobody PREP the NOUN ADV VERB the ADJ NOUN or its PLURAL.",
)
OPENINGS: Final = (
    "ASK how the ADJ NOUN VERB NUMBER ADJ PLURAL PREP the NOUN.",
    "ASK why NUMBER ADJ PLURAL PREP the ADJ NOUN VERB the NOUN.",
    "ASK what ADJ NOUN ADV VERB the ADJ NOUN PREP the NOUN.",
)
"""How a prompt begins: fresh words at once, so that no two prompts of a trace share a block of a cache."""


QUESTIONS: Final = (
    "Describe this picture in detail.",
    "What can be seen here, and where was it made?",
    "List everything that you recognise in this image.",
    "Write a short caption for this picture.",
    "Which colours stand out, and what do they suggest?",
    "Explain this image to somebody who cannot see it.",
)
"""What is asked about an image that comes without a prompt."""


def sentence(rng: Random) -> str:
    """One sentence."""
    return _filled(rng.choice(PATTERNS), rng)


def opening(rng: Random) -> str:
    """A first sentence: one of 10^13, told apart within its first ten words."""
    return _filled(rng.choice(OPENINGS), rng)


@cache
def pool() -> tuple[str, ...]:
    """The sentences that long texts are made of: the same for every seed."""
    rng = Random("corpus")
    return tuple(sentence(rng) for _ in range(SENTENCES))


def _filled(pattern: str, rng: Random) -> str:
    words = []
    for word in pattern.split():
        slot = word.rstrip(".,;?")
        words.append(rng.choice(WORDS[slot]) + word[len(slot) :] if slot in WORDS else word)
    text = " ".join(words)
    return _BEFORE_VOWEL.sub(r"\1n ", text[0].upper() + text[1:])
