"""Prompts: exactly as long as asked, different from each other, the same for the same seed."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tbench.capture.errors import InputError
from tbench.capture.synthesis.content import Prompts, Wanted
from tbench.capture.synthesis.corpus import opening, pool, sentence
from tbench.capture.synthesis.tokens import Counted, calibrated, load_tokens


def trained(model: object, trainer: object, pre: object, normalizer: object = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(pool()[:400], trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    """No merges: each byte is a token."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))


def across_words() -> Tokenizer:
    """As SentencePiece without splitting: tokens may hold several words, so costs do not add up."""
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False)
    pre = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return trained(models.BPE(), trainer, pre)


def unigram() -> Tokenizer:
    """The model of T5 and XLM-R."""
    trainer = trainers.UnigramTrainer(
        vocab_size=600, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace())


def wordpiece() -> Tokenizer:
    """The model of BERT, which most embedding models have: all in lower case."""
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, show_progress=False, special_tokens=["[UNK]"]
    )
    pre, normalizer = pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    return trained(models.WordPiece(unk_token="[UNK]"), trainer, pre, normalizer)


@pytest.mark.parametrize("kind", [byte_level, across_words, unigram, wordpiece])
def test_every_text_has_exactly_its_tokens(kind: Callable[[], Tokenizer]) -> None:
    """For four families of tokenizers, counted by the library itself."""
    tokenizer = kind()
    prompts = Prompts(Counted(tokenizer, "t"))
    wanted = [Wanted(tokens) for tokens in (1, 2, 3, 5, 8, 13, 50, 100, 100, 100, 300)]
    texts = prompts.write(wanted, Random(1))

    counts = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    assert counts == [one.tokens for one in wanted]


@pytest.fixture(scope="module")
def bpe(tokenizer_file: Path) -> Tokenizer:
    found = Tokenizer.from_file(str(tokenizer_file))
    found.no_truncation()
    return found


@given(tokens=st.integers(1, 400), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_any_length_can_be_had(bpe: Tokenizer, tokens: int, seed: int) -> None:
    """From one token on."""
    (text,) = Prompts(Counted(bpe, "t")).write([Wanted(tokens)], Random(seed))

    assert len(bpe.encode(text, add_special_tokens=False).ids) == tokens
    assert text == text.strip()


@given(tokens=st.integers(1, 400), ratio=st.floats(1, 12), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_calibrated_lengths_are_exact_in_characters(tokens: int, ratio: float, seed: int) -> None:
    """As many whole tokens of `ratio` characters as asked for, the last one begun."""
    (text,) = Prompts(calibrated(ratio)).write([Wanted(tokens)], Random(seed))

    assert ratio * (tokens - 1) < len(text) <= ratio * tokens + 1e-9


def test_lines_of_a_dataset_are_what_texts_are_made_of(bpe: Tokenizer) -> None:
    """Words in their order, lines drawn with replacement, cut where the length is reached."""
    lines = ["one two three", "vier fünf", "   六七八九十   "]
    texts = Prompts(Counted(bpe, "t"), lines).write([Wanted(60)] * 20, Random(1))
    words = {word for line in lines for word in line.split()}

    assert all(len(bpe.encode(text, add_special_tokens=False).ids) == 60 for text in texts)
    assert all(set(text.split()[:-4]) <= words for text in texts)


def test_a_head_stays_and_counts(bpe: Tokenizer) -> None:
    """The whole has the length asked for."""
    prompts = Prompts(Counted(bpe, "t"))
    head = "A shared beginning. 00ff"
    texts = prompts.write([Wanted(40, head, prompts.count(head))] * 5, Random(1))

    assert all(text.startswith(head + " ") for text in texts)
    assert {len(bpe.encode(text).ids) for text in texts} == {40}


def test_what_is_impossible_is_said(bpe: Tokenizer) -> None:
    """A head that is longer than the whole."""
    with pytest.raises(InputError, match="no text of exactly 3 tokens was found that begins with"):
        Prompts(Counted(bpe, "t")).write([Wanted(3, "word " * 30)], Random(1))


def test_prompts_differ_within_their_first_sixteen_tokens(tokenizer_file: Path) -> None:
    """So that no two of 10,000 share a block of a prefix cache by accident."""
    tokens = load_tokens(tokenizer_file)
    texts = Prompts(calibrated(5.0)).write([Wanted(40)] * 10_000, Random(1))
    reference = Tokenizer.from_file(str(tokenizer_file))
    reference.enable_truncation(24)  # a vocabulary of 1,500 cuts words that a large one holds whole

    assert len({tuple(one.ids) for one in reference.encode_batch(texts)}) == 10_000
    assert min(tokens.counts(texts)) > 24


def test_the_corpus_is_seeded_and_reads_like_sentences() -> None:
    """Capital first, a mark last, no slot left over, an article that fits."""
    rng = Random(5)
    lines = [sentence(rng) for _ in range(2000)] + [opening(rng) for _ in range(2000)]

    assert all(line[0].isupper() and line[-1] in ".?" for line in lines)
    assert not [line for line in lines if any(len(w) > 1 and w.isupper() for w in line.split())]
    assert not [line for line in lines if " a e" in line or " a o" in line or " an b" in line]
    assert pool() == pool()
    assert len(set(pool())) > 4000
