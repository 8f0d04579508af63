"""Wisdom: everything that was measured in one environment, as one file that equal machines can share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from memopt_ref.errors import MemoptError, TuningError

from . import machine, store
from .key import file_of

#: Bytes beyond which a file is no wisdom.
LONGEST = 2**26


class Wisdom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds: the environment that it is true of, and its entries."""

    environment: dict[str, Any]
    entries: list[store.Entry]


def export_wisdom(path: str | os.PathLike[str]) -> int:
    """Write what was measured in this environment to a file; how many keys that are.

    Parameters
    ----------
    path : path
        JSON, in an order that makes equal contents equal bytes. The file is whole or not there.

    Raises
    ------
    TuningError
        The system refused.
    """
    found = sorted((entry for _, entry in store.entries()), key=lambda entry: entry.key)
    try:
        store.put(Path(path), store.encoded(Wisdom(machine.environment(), found)))
    except MemoptError as error:
        advice = "Choose a folder that can be written."
        raise TuningError(os.fspath(path), error.got, "a file that can be written", advice) from error
    return len(found)


def import_wisdom(path: str | os.PathLike[str]) -> int:
    """Take over what an equal machine has measured, all of it or nothing; how many keys that are.

    Parameters
    ----------
    path : path
        Written by :func:`export_wisdom`.

    Raises
    ------
    TuningError
        The file cannot be read, is not whole, or is from another processor, other versions of the libraries
        or other sources; or an entry cannot be kept. What was known is as it was.

    Notes
    -----
    Entries of the same keys are replaced. A loss of power in between leaves some of the new ones, each whole.
    """
    wisdom = _read(path)
    here = machine.environment()
    if wisdom.environment != here:
        names = sorted(here.keys() | wisdom.environment.keys())
        other = [name for name in names if here.get(name) != wisdom.environment.get(name)]
        got = f"measurements made with another {', '.join(other)}"
        raise TuningError(os.fspath(path), got, "an equal machine's", "Measure here: memopt tune.")
    if len({entry.key for entry in wisdom.entries}) < len(wisdom.entries):
        raise TuningError(os.fspath(path), "a key twice", "each key once", "Export it again.")
    kept: dict[Path, bytes | None] = {}
    try:
        place = store.prepared()
        for entry in wisdom.entries:
            target = place / file_of(entry.key)
            before = target.read_bytes() if target.exists() else None
            store.put(target, store.encoded(entry))
            kept[target] = before
    except (OSError, MemoptError) as error:
        _put_back(kept)
        got = str(getattr(error, "got", None) or error)
        advice = "What was known is as it was."
        raise TuningError(str(store.folder()), got, "a folder that can be written", advice) from error
    return len(wisdom.entries)


def _put_back(kept: dict[Path, bytes | None]) -> None:
    for target, before in kept.items():
        if before is None:
            target.unlink(missing_ok=True)
        else:
            store.put(target, before)


def _read(path: str | os.PathLike[str]) -> Wisdom:
    wanted, advice = "a file of memopt tune export", "Export it again."
    try:
        return msgspec.json.decode(store.content(Path(path), LONGEST), type=Wisdom)
    except OSError as error:
        got = error.strerror or str(error)
        raise TuningError(os.fspath(path), got, "a file that can be read", "Check the path.") from error
    except ValueError as error:
        raise TuningError(os.fspath(path), str(error), wanted, advice) from error
