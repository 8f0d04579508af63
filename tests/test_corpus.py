"""The text of the demonstration: what is read, how it is cut, and what is refused."""

import os
import re

import numpy as np
import pytest

from memopt_ref.demo.corpus import UNKNOWN, read_corpus, tokens
from memopt_ref.errors import CorpusError


def prose(words: int, seed: int = 0, kinds: int = 400) -> str:
    random = np.random.default_rng(seed)
    ranks = np.minimum(random.zipf(1.3, words), kinds)
    return " ".join(f"w{chr(97 + r % 26)}{chr(97 + r // 26)}" for r in ranks)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(prose(8000))
    return path


def test_words_numbers_and_signs_are_tokens():
    assert tokens("x_1 = f(2.5)\n\tdéjà_vu!=") == [
        "x_1",
        "=",
        "f",
        "(",
        "2",
        ".",
        "5",
        ")",
        "déjà_vu",
        "!",
        "=",
    ]


def test_the_standard_library_is_the_default_and_fills_the_vocabulary():
    corpus = read_corpus()
    assert corpus.name == "Python standard library"
    assert len(corpus.vocabulary) == 8192
    assert corpus.vocabulary[0] == UNKNOWN
    assert corpus.words > 500_000
    assert len(corpus.sha256) == 64
    assert corpus.sha256[:16] in corpus.describe()


def test_the_same_text_gives_the_same_numbers_and_another_text_another_hash(book):
    first, again = read_corpus(book), read_corpus(book)
    assert first.sha256 == again.sha256
    assert first.vocabulary == again.vocabulary
    assert np.array_equal(first.train.contexts, again.train.contexts)
    book.write_text(prose(8000, seed=1))
    assert read_corpus(book).sha256 != first.sha256


def cut_is_sound(words, corpus):
    """Every target is the word that follows its context, and the three stretches share no position."""
    number = {word: i for i, word in enumerate(corpus.vocabulary)}
    ids = np.array([number.get(word, 0) for word in words])
    n, c = len(ids), corpus.context
    ends = (0, n * 8 // 10, n * 9 // 10, n)
    for k, split in enumerate((corpus.train, corpus.validation, corpus.test)):
        at = np.arange(ends[k] + c, ends[k + 1])
        if not (len(split) == len(at) and np.array_equal(split.targets, ids[at])):
            return False
        if not all(np.array_equal(split.contexts[:, j], ids[at - c + j]) for j in range(c)):
            return False
    return True


def test_a_file_is_cut_into_head_middle_and_tail_that_never_overlap(book):
    words, corpus = tokens(book.read_text()), read_corpus(book)
    assert cut_is_sound(words, corpus)
    # The check sees a text that is off by one word.
    assert not cut_is_sound(words[1:] + words[:1], corpus)


def test_contexts_do_not_cross_from_one_file_into_the_next(tmp_path):
    first, second = prose(4000), prose(4000, seed=1)
    (tmp_path / "a.txt").write_text(first)
    (tmp_path / "b.txt").write_text(second)
    corpus = read_corpus(tmp_path)
    assert corpus.files == 2
    # Each file's head of 3200 words has 3 positions fewer than words.
    assert len(corpus.train) == 2 * (3200 - 3)


def test_short_files_are_joined_before_they_are_cut(tmp_path):
    words = prose(6000).split()
    for k in range(0, 6000, 8):
        (tmp_path / f"{k:05}.txt").write_text(" ".join(words[k : k + 8]))
    corpus = read_corpus(tmp_path)
    assert corpus.files == 750
    # Six pieces of 1000 words, or near it: each has 3 positions fewer than words in each of its parts.
    assert len(corpus.validation) > 500
    assert len(corpus.train) + len(corpus.validation) + len(corpus.test) == 6000 - 3 * 3 * 6


def test_the_vocabulary_comes_from_the_training_words_alone_by_frequency(tmp_path):
    path = tmp_path / "t.txt"
    head = prose(7200).split()
    path.write_text(" ".join([*head, *["unseen"] * 1800]))
    corpus = read_corpus(path, vocabulary=50)
    assert len(corpus.vocabulary) == 50
    assert "unseen" not in corpus.vocabulary
    counts = [head[:7200].count(word) for word in corpus.vocabulary[1:]]
    assert counts == sorted(counts, reverse=True)
    assert min(counts) >= 2
    assert np.all(corpus.test.targets == 0)
    assert corpus.unknown_share > 0.2


def test_spread_positions_are_evenly_spaced_and_repeatable(book):
    split = read_corpus(book).test
    few = split.spread(100)
    assert len(few) == 100
    assert np.array_equal(few.targets, split.spread(100).targets)
    assert len(split.spread(10**9)) == len(split)


def test_a_folder_leaves_out_hidden_and_binary_files_and_says_how_many(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text(prose(8000))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\xff\xfe")
    (tmp_path / ".hidden").write_text("secret " * 10)
    corpus = read_corpus(tmp_path)
    assert (corpus.files, corpus.skipped) == (1, 1)
    assert "secret" not in corpus.vocabulary
    assert "1 that hold no text left out" in corpus.describe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        (b"", "no words"),
        (b" \n\t ", "no words"),
        (b"\x89PNG\r\n\x1a\n\0\0" * 1000, "binary content"),
        ("größe ".encode("latin-1") * 9000, "binary content"),
        (b"text with a \0 " * 9000, "binary content"),
        (prose(400).encode(), "400 words"),
        (" ".join(f"w{n}x" for n in range(9000)).encode(), "9,000 words, 0 of them recurring"),
        (b"again and " * 9000, "18,000 words, 2 of them recurring"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "corpus"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=re.escape(message)) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)
    assert caught.value.advice.endswith(".")


def test_an_empty_folder_and_one_of_binaries_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="no words"):
        read_corpus(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\0" * 100)
    with pytest.raises(CorpusError, match="binary content"):
        read_corpus(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(book):
    book.chmod(0)
    with pytest.raises(CorpusError, match="Permission denied"):
        read_corpus(book)
