"""Text for the demonstration: files to words, words to numbers, numbers to three splits.

The default text is the source of Python's own standard library (its top-level ``*.py`` files, about a million
words), which every machine has. Every file is cut at four fifths and at nine tenths of its words: the head
trains, the middle validates, the tail tests, so one file serves as well as a folder, and the three never
overlap.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CorpusError

WORD = re.compile(r"[^\W\d]\w*|\d+|[^\w\s]")
UNKNOWN = "<unk>"
MIN_WORDS, MIN_RECURRING = 5_000, 100
MAX_WORDS, MAX_CHARACTERS = 4_000_000, 32_000_000
#: Shorter files are joined with the next ones before they are cut, lest a tenth of one be nothing.
MIN_LENGTH = 1_000

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Positions to predict: word ``targets[i]`` follows the words ``contexts[i]``, oldest first."""

    contexts: Ids
    targets: Ids

    def __len__(self) -> int:
        return len(self.targets)

    def spread(self, n: int) -> Split:
        """At most ``n`` positions, evenly spaced: the same ones on every call."""
        chosen = np.linspace(0, len(self), min(n, len(self)), endpoint=False).astype(np.int64)
        return Split(self.contexts[chosen], self.targets[chosen])


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as numbers: the vocabulary by descending frequency after ``<unk>``, and three splits."""

    name: str
    sha256: str
    files: int
    skipped: int
    words: int
    kinds: int
    unknown_share: float
    vocabulary: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    @property
    def context(self) -> int:
        """Words that predict the next one."""
        return int(self.train.contexts.shape[1])

    def describe(self) -> str:
        """One line: what was read, and the hash of it."""
        left_out = f" ({self.skipped} that hold no text left out)" if self.skipped else ""
        return (
            f"{self.name}: {self.files} files{left_out}, {self.words:,} words of {self.kinds:,} kinds, "
            f"vocabulary {len(self.vocabulary):,} ({self.unknown_share:.1%} of the words unknown), "
            f"sha256 {self.sha256[:16]}"
        )


def read_corpus(path: str | Path | None = None, *, vocabulary: int = 8192, context: int = 3) -> Corpus:
    """Read, cut into words, number and split a text.

    Parameters
    ----------
    path : path, optional
        A UTF-8 text file, or a folder whose text files are read recursively in the order of their names
        (hidden and binary ones are left out). By default the top-level ``*.py`` files of Python's standard
        library. Reading stops after 4 million words.
    vocabulary : int
        Words kept, ``<unk>`` among them: the most frequent of the training split that occur at least twice in
        it.
    context : int
        Words that predict the next one.

    Returns
    -------
    Corpus

    Raises
    ------
    CorpusError
        The path is missing, or its text is empty, binary or too small: 5,000 words are wanted, 100 of which
        recur.

    Examples
    --------
    >>> tokens("for i in range(10): # naïve")
    ['for', 'i', 'in', 'range', '(', '10', ')', ':', '#', 'naïve']
    """
    name, files = _files(path)
    digest = hashlib.sha256()
    documents: list[list[str]] = []
    skipped = total = 0
    for file in files:
        text = _text(file)
        if text is None:
            skipped += 1
            continue
        words = tokens(text)[: MAX_WORDS - total]
        digest.update(text.encode() + b"\0")
        documents.append(words)
        total += len(words)
        if total >= MAX_WORDS:
            break
    if not documents and skipped:
        raise CorpusError(
            name, "binary content", "UTF-8 text", "Pass a text file, or a folder with text files."
        )
    if total == 0:
        raise CorpusError(
            name, "no words", f"at least {MIN_WORDS:,} words", "Pass a file or folder that holds text."
        )
    parts = [_cut(document) for document in _joined(documents)]
    counts = Counter(word for head, _, _ in parts for word in head)
    recurring = sorted((w for w, n in counts.items() if n >= 2), key=lambda w: (-counts[w], w))
    if total < MIN_WORDS or len(recurring) < MIN_RECURRING:
        got = f"{total:,} words, {len(recurring):,} of them recurring"
        wanted = f"at least {MIN_WORDS:,} words, {MIN_RECURRING} of them recurring"
        raise CorpusError(name, got, wanted, "Pass more text.")

    frequent = recurring[: vocabulary - 1]
    number = {word: i for i, word in enumerate((UNKNOWN, *frequent))}
    numbered = [[np.array([number.get(w, 0) for w in piece], np.int64) for piece in part] for part in parts]
    train, validation, test = (_positions([pieces[k] for pieces in numbered], context) for k in range(3))
    unknown = sum(int(np.count_nonzero(piece == 0)) for pieces in numbered for piece in pieces)
    return Corpus(
        name=name,
        sha256=digest.hexdigest(),
        files=len(documents),
        skipped=skipped,
        words=total,
        kinds=len(set().union(*documents)),
        unknown_share=unknown / total,
        vocabulary=(UNKNOWN, *frequent),
        train=train,
        validation=validation,
        test=test,
    )


def tokens(text: str) -> list[str]:
    """Words, numbers and single signs, in order; white space is dropped."""
    return WORD.findall(text)


def _files(path: str | Path | None) -> tuple[str, list[Path]]:
    if path is None:
        folder = Path(sysconfig.get_path("stdlib"))
        files = sorted(folder.glob("*.py"))
        name = "Python standard library"
        if not files:
            got, advice = f"no *.py files in {folder}", "Pass --corpus PATH."
            raise CorpusError(name, got, "the library's source text", advice)
        return name, files
    path = Path(path)
    if path.is_dir():
        return str(path), sorted(_visible(path))
    if not path.is_file():
        raise CorpusError(str(path), "no such file or folder", "a text file or a folder", "Check the path.")
    return str(path), [path]


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _text(file: Path) -> str | None:
    """The file's text, or None if it is binary: not UTF-8, or with a NUL."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            text = opened.read(MAX_CHARACTERS)
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise CorpusError(
            str(file), error.strerror or "an error", "a readable file", "Check the rights."
        ) from error
    return None if "\0" in text else text


def _joined(documents: list[list[str]]) -> Iterator[list[str]]:
    """Documents of ``MIN_LENGTH`` words at least, short ones joined with their neighbours."""
    piece: list[str] = []
    left = sum(map(len, documents))
    for document in documents:
        piece, left = [*piece, *document], left - len(document)
        if len(piece) >= MIN_LENGTH and (left >= MIN_LENGTH or left == 0):
            yield piece
            piece = []
    if piece:
        yield piece


def _cut(document: list[str]) -> tuple[list[str], list[str], list[str]]:
    first, second = len(document) * 8 // 10, len(document) * 9 // 10
    return document[:first], document[first:second], document[second:]


def _positions(pieces: list[Ids], context: int) -> Split:
    """Every position that has ``context`` words before it in its own piece."""
    long_enough = [piece for piece in pieces if len(piece) > context]
    if not long_enough:
        return Split(np.zeros((0, context), np.int64), np.zeros(0, np.int64))
    windows = [np.lib.stride_tricks.sliding_window_view(piece, context + 1) for piece in long_enough]
    joined = np.concatenate(windows)
    return Split(np.ascontiguousarray(joined[:, :-1]), np.ascontiguousarray(joined[:, -1]))
