"""What the CUDA kernels cost at a commit: registers, spilled bytes and bytes of code, from its own table.

The table is kept with the tests, which hold it against the texts of the kernels and, where NVRTC is
installed, against the compiler; so it is read and nothing is compiled here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import FileFormatError

TABLE = "tests/cupy_gpu/gate.json"
#: The forms that the history follows, of the four dtypes and the options that the table has.
FORM = " float32"


class Cost(NamedTuple):
    """Registers of a thread, bytes of a thread that registers could not hold, bytes of code."""

    registers: int
    spilled: int
    code: int


def committed(root: Path, commit: str | None = None) -> str:
    """The text of the table at a commit, or as it lies in the checkout; empty where there is none yet."""
    if commit is None:
        path = root / TABLE
        return path.read_text(encoding="utf-8") if path.exists() else ""
    command = ["git", "-C", str(root), "show", f"{commit}:{TABLE}"]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return done.stdout if done.returncode == 0 else ""


def most(text: str) -> dict[str, Cost]:
    """Kernel -> the most that it costs in float32 on any device, for the newest compiler of the table.

    Raises
    ------
    FileFormatError
        It is no such table.

    Examples
    --------
    >>> columns = ["registers", "stack", "spill_stores", "spill_loads", "shared", "code"]
    >>> devices = {"80": [30, 0, 0, 0, 0, 384], "90": [28, 0, 4, 4, 0, 512]}
    >>> most(json.dumps({"columns": columns, "costs": {"12.9": {"adam float32": devices}}}))
    {'adam': Cost(registers=30, spilled=8, code=512)}
    """
    if not text:
        return {}
    try:
        table = json.loads(text)
        newest = max(table["costs"], key=lambda version: tuple(map(int, version.split("."))))
        return {
            kernel.removesuffix(FORM): _most(table["columns"], devices.values())
            for kernel, devices in table["costs"][newest].items()
            if kernel.endswith(FORM)
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        wanted, advice = "a table of kernels' costs", "Write it with: python -m tests.cupy_gpu.gate --write."
        raise FileFormatError(TABLE, f"{type(error).__name__}: {error}", wanted, advice) from error


def _most(columns: list[str], devices: Iterable[list[int]]) -> Cost:
    named = [dict(zip(columns, numbers, strict=True)) for numbers in devices]
    costs = [Cost(n["registers"], n["spill_stores"] + n["spill_loads"], n["code"]) for n in named]
    return Cost(*map(max, zip(*costs, strict=True)))
