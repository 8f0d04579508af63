"""The benchmark history: result files as asv writes them (version 2), read into figures by name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from ..errors import FileFormatError

#: Longest result file that is read, in bytes.
FILE_LIMIT = 50_000_000

Key = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Commit:
    """The figures of one commit on one machine.

    ``values`` maps a benchmark's name and its parameters, as asv writes them less their quotes, to a number;
    what was skipped or failed is not there.
    """

    hash: str
    date: datetime
    machine: str
    environment: str
    values: Mapping[Key, float]

    def value(self, benchmark: str, *parameters: Any) -> float | None:
        """One figure, or None."""
        return self.values.get((benchmark, tuple(map(str, parameters))))


@dataclass(frozen=True)
class History:
    """All commits of one machine, the oldest first, and what is known of the machine."""

    machine: str
    about: Mapping[str, str]
    commits: tuple[Commit, ...]

    def series(self, benchmark: str, *parameters: Any) -> tuple[tuple[float, float], ...]:
        """(number of the commit from 1, value) wherever there is one."""
        found = ((k, c.value(benchmark, *parameters)) for k, c in enumerate(self.commits, 1))
        return tuple((float(k), value) for k, value in found if value is not None)

    def parameters(self, benchmark: str) -> tuple[tuple[str, ...], ...]:
        """The parameters for which some commit has a figure, in the order of the newest."""
        seen: dict[tuple[str, ...], None] = {}
        for commit in reversed(self.commits):
            seen |= {key[1]: None for key in commit.values if key[0] == benchmark}
        return tuple(seen)


def read(folder: Path) -> tuple[History, ...]:
    """The histories in asv's folder of results, one a machine.

    Raises
    ------
    FileFormatError
        There is none, or a file is not what asv writes.
    """
    machines = sorted(p.parent for p in folder.glob("*/machine.json"))
    histories = []
    for place in machines:
        about = {str(k): str(v) for k, v in _json(place / "machine.json").items() if k != "version"}
        files = [p for p in sorted(place.glob("*.json")) if p.name != "machine.json"]
        commits = sorted((_commit(p, place.name) for p in files), key=lambda c: (c.date, c.hash))
        if commits:
            histories.append(History(place.name, about, tuple(commits)))
    if not histories:
        advice = "Pass asv's folder of results, or record a run: python asv_bench/record.py --help."
        raise FileFormatError(str(folder), "no results", "MACHINE/machine.json and files of results", advice)
    return tuple(histories)


def _commit(path: Path, machine: str) -> Commit:
    record = _json(path)
    try:
        columns = record["result_columns"]
        values = dict(
            found
            for name, row in record["results"].items()
            for found in _figures(name, dict(zip(columns, row, strict=False)))
        )
        date = datetime.fromtimestamp(record["date"] / 1000, UTC)
        return Commit(str(record["commit_hash"]), date, machine, str(record["env_name"]), values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wanted, advice = "a file of results of asv, version 2", "Record the run again."
        raise FileFormatError(str(path), f"{type(error).__name__}: {error}", wanted, advice) from error


def _figures(name: str, columns: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
    values = columns.get("result")
    if values is None:
        return
    parameters = product(*([_plain(p) for p in some] for some in columns.get("params") or []))
    for chosen, value in zip(parameters, values, strict=True):
        if value is not None and math.isfinite(value):
            yield (name, chosen), float(value)


def _plain(parameter: str) -> str:
    return parameter[1:-1] if parameter[:1] in "'\"" and len(parameter) > 1 else parameter


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(str(path), str(error), "a JSON object", "Record the run again.") from error
    return found
