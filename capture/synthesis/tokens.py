"""Tokens: how long a text is for a model. By its tokenizer, or by a calibrated number of characters.

A count is that of the text alone: no chat template, no special tokens, as genai-bench counts. What a server
says is more by its template (a constant for one message).
"""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from tbench.capture.errors import InputError
from tbench.capture.synthesis.corpus import sentence
from tbench.capture.terminal import escaped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE: Final = "tokenizer.json"
CONTEXT: Final = "The"
"""Stands before a piece whose cost is asked for: many tokenizers treat the first word in a way of its own."""
LONGEST_WORD: Final = 12
"""Letters of a word that today's vocabularies of 100,000 tokens and more mostly hold as one."""
RATIOS: Final = (0.2, 20.0)
"""Characters a token, the least and the most of any tokenizer: bytes of rare scripts, runs of spaces."""

_WORD = re.compile(r"\w+|[^\w\s]")


class Tokens(Protocol):
    """What counts tokens; `source` says how, for the trace's header."""

    @property
    def source(self) -> str: ...

    def counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has by itself."""
        ...

    def costs(self, pieces: Sequence[str]) -> list[float]:
        """About how many tokens each piece adds to a text that it is appended to."""
        ...


class Counted:
    """Counts by a tokenizer."""

    def __init__(self, tokenizer: "Tokenizer", source: str) -> None:
        tokenizer.no_truncation()  # many tokenizer files cut at 512, or pad
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.source = source

    def counts(self, texts: Sequence[str]) -> list[int]:
        encode = self._tokenizer.encode_batch_fast
        try:
            return [len(encoding.ids) for encoding in encode(list(texts), add_special_tokens=False)]
        except Exception as error:
            if type(error) is not Exception:  # what the library raises for whatever its file lacks
                raise
            raise InputError(f"{self.source}: cannot encode text: {error}") from None

    def ends(self, text: str) -> tuple[list[int], list[float]]:
        """Where in a text each token of it ends, in characters, and that each is one token."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [end for _, end in encoding.offsets], [1.0] * len(encoding.offsets)

    def costs(self, pieces: Sequence[str]) -> list[float]:
        alone, *together = self.counts([CONTEXT, *(CONTEXT + piece for piece in pieces)])
        return [float(count - alone) for count in together]


class Calibrated:
    """Counts by characters: a text of `chars` characters has ceil(chars / chars_per_token) tokens."""

    def __init__(self, chars_per_token: float, source: str) -> None:
        self._ratio = chars_per_token
        self.source = source

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [math.ceil(len(text) / self._ratio) for text in texts]

    def costs(self, pieces: Sequence[str]) -> list[float]:
        return [len(piece) / self._ratio for piece in pieces]


def calibrated(chars_per_token: float, *, source: str = "characters") -> Calibrated:
    """Lengths by a measured ratio, such as that of characters sent to the server's `prompt_tokens`."""
    low, high = RATIOS
    if not low <= chars_per_token <= high:
        raise InputError(
            f"{chars_per_token:g} characters per token: no tokenizer has less than {low:g} or more "
            f"than {high:g}; --model-tokenizer counts exactly"
        )
    return Calibrated(chars_per_token, f"{source} ({chars_per_token:.3f} per token)")


def estimated(seed: int = 0, sentences: int = 500) -> Calibrated:
    """Lengths estimated without a tokenizer: each word of our corpus, and each mark, is one token."""
    rng = Random(f"{seed} estimate")
    chars = tokens = 0
    for _ in range(sentences):
        text = sentence(rng)
        chars += len(text) + 1  # a space before it
        tokens += sum(math.ceil(len(word) / LONGEST_WORD) for word in _WORD.findall(text))
    return calibrated(chars / tokens, source="estimate")


def counter(tokenizer: str | Path | None, chars_per_token: float | None) -> Tokens:
    """By a tokenizer, by a measured ratio, or for want of both by an estimate. Raises InputError."""
    if tokenizer is not None and chars_per_token is not None:
        raise InputError("--model-tokenizer and --chars-per-token both say lengths; give one")
    if tokenizer is not None:
        return load_tokens(tokenizer)
    return estimated() if chars_per_token is None else calibrated(chars_per_token)


def load_tokens(name: str | Path) -> Counted:
    """The tokenizer of a tokenizer.json, of a folder that holds one, or of a model in the local HF cache.

    Uses no network. Raises InputError that says what to do.
    """
    file = Path(name).expanduser()
    if file.is_dir():
        file /= TOKENIZER_FILE
        if not file.is_file():
            raise InputError(
                f"{file}: no such file; the folder of a tokenizer must hold it (transformers: "
                "AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER))"
            )
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 (heavy)
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

        cached: object = None
        with suppress(HFValidationError):  # not the form of a name on the Hub
            cached = try_to_load_from_cache(str(name), TOKENIZER_FILE)
        if not isinstance(cached, str):
            raise InputError(
                f"tokenizer {name}: no such file or folder, and not in the local Hugging Face cache; "
                f"fetch it once with 'hf download {name} {TOKENIZER_FILE}', or leave the tokenizer out: "
                "lengths are then estimated, and can be calibrated by the server's counts"
            )
        file = Path(cached)
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 (heavy)

        digest = blake2b(file.read_bytes(), digest_size=4).hexdigest()
        return Counted(
            Tokenizer.from_file(str(file)), source=f"tokenizer {escaped(str(name))} ({digest})"
        )
    except Exception as error:
        if (
            type(error) is not Exception
        ):  # the library raises that for whatever is wrong in the file
            raise
        raise InputError(f"{file}: not a tokenizer: {error}") from None
