"""Measured choices on disk: one file a key, in a folder that is named by the environment.

A file is replaced in one step, so that a reader sees the old or the new one, whole, whoever writes at the
same time and whenever a writer dies. Nothing in it is code: it names a kernel and settings of this library,
or it is not believed. Whatever is wrong with it costs a warning and a new measurement.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from memopt_ref.errors import CheckpointFormatError, MemoptError, TuningError

from ..folders import base_folder
from . import machine
from .key import file_of

ABOUT = "environment.json"
#: Bytes beyond which a file is no entry, whatever it says.
LONGEST = 2**20


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured for a key: the kernel that is taken, its knobs, and everybody's seconds a step.

    ``slow`` and ``wrong`` tell why the others were not timed; ``company``, how much of the processors other
    work took meanwhile, from 0 to 1.
    """

    key: str
    variant: str
    knobs: dict[str, int | float | str | None]
    default: str
    seconds: dict[str, float]
    slow: dict[str, str]
    wrong: dict[str, str]
    rounds: int
    company: float
    measured: str


def folder() -> Path:
    """Where this environment's entries lie; not made by asking."""
    return base_folder() / f"tuning-{machine.fingerprint(machine.environment())}"


def warn(what: str) -> None:
    """Say what is wrong with the store; this costs time, never correctness."""
    warnings.warn(f"memopt_ref: {what}; this costs time, never correctness", RuntimeWarning, stacklevel=3)


@functools.cache
def _said(where: Path, what: str) -> None:
    """Warn of a folder once a process."""
    warn(f"measured speeds are not kept in {where} ({what})")


def read(key: str) -> Entry | None:
    """The entry of a key, or None; warns if the file is damaged or another's."""
    path = folder() / file_of(key)
    try:
        entry = read_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        warn(f"the measured speeds in {path} are damaged or foreign and are not used ({error})")
        return None
    if entry.key != key:
        warn(f"the measured speeds in {path} belong to another key and are not used")
        return None
    return entry


def read_file(path: Path) -> Entry:
    """An entry from a file; raises OSError or ValueError."""
    return msgspec.json.decode(content(path), type=Entry)


def content(path: Path, longest: int = LONGEST) -> bytes:
    """What a regular file holds; a pipe must not make a reader wait."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > longest:
            raise ValueError("no regular file of a sensible size")
        return file.read()


def write(entry: Entry) -> bool:
    """Keep an entry; False and a warning, once a folder, if that cannot be."""
    try:
        put(prepared() / file_of(entry.key), encoded(entry))
    except (OSError, MemoptError) as error:
        _said(folder(), str(getattr(error, "got", None) or error))
        return False
    return True


def encoded(value: Any) -> bytes:
    """Readable, and equal for equal values."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"


def prepared() -> Path:
    """The folder, made if it was not there, with what its name stands for beside the entries."""
    found = machine.environment()
    place = base_folder() / f"tuning-{machine.fingerprint(found)}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (place / ABOUT).exists():
        put(place / ABOUT, encoded(found))
    return place


def put(path: Path, data: bytes) -> None:
    """Put a file in its place in one step.

    Raises
    ------
    CheckpointWriteError
        The system refused; what was there is as it was.
    """
    from memopt_ref.checkpoint import files  # and with it all of checkpoints, only when something is kept

    def check(temporary: str) -> None:
        with open(temporary, "rb") as file:
            if file.read() != data:
                raise CheckpointFormatError(str(path), "other bytes", "what was written", "Try again.")

    files.replace(path, lambda send: send(data), check, keep=1)


def entries() -> Iterator[tuple[Path, Entry]]:
    """All readable entries of this environment, in the order of their files' names; warns of the others."""
    for path in places():
        try:
            yield path, read_file(path)
        except (OSError, ValueError) as error:
            warn(f"the measured speeds in {path} are damaged or foreign and are not used ({error})")


def places(home: Path | None = None) -> list[Path]:
    """The files of the entries in a folder, this environment's by default."""
    try:
        found = (folder() if home is None else home).iterdir()
        return sorted(p for p in found if p.suffix == ".json" and p.name != ABOUT)
    except OSError:
        return []


def clear(everywhere: bool = False) -> int:
    """Remove the entries of this environment, or of all; how many there were.

    Raises
    ------
    TuningError
        One cannot be removed.
    """
    removed = 0
    homes = sorted(base_folder().glob("tuning-*")) if everywhere else [folder()]
    for home in homes:
        if home.is_symlink() or not home.is_dir():
            continue
        for path in home.iterdir():
            try:
                path.unlink()
            except OSError as error:
                advice = "Check who owns the folder."
                raise TuningError(str(path), str(error), "a file that can be removed", advice) from error
            removed += path.suffix == ".json" and path.name != ABOUT
        with contextlib.suppress(OSError):
            home.rmdir()  # another process may have put something there
    return removed
