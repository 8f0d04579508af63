"""What every command prints with: tables for people, ``--json`` for programs."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..sizes import format_size, parse_size

__all__ = [
    "SIZE",
    "check_folder",
    "console",
    "format_size",
    "json_option",
    "print_json",
    "printable",
    "table",
    "write",
]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else there."
)

# rich takes 80 columns where there is no terminal and would cut figures off in a log.
LOG_WIDTH = 160


def console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console on stdout (or stderr) that obeys NO_COLOR and never breaks a table's figures in a log.

    Progress belongs on stderr, so that ``--json`` stays clean.
    """
    probe = Console(file=file, stderr=stderr, highlight=False)
    return probe if probe.is_terminal else Console(file=file, stderr=stderr, highlight=False, width=LOG_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    """A table; a column whose name starts with ``>`` is aligned to the right and never wrapped.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : iterable of sequences
        Cells; printed with ``str``, markup in them is not interpreted.
    title : str, optional
        Printed above, on the left.

    Examples
    --------
    >>> console().print(table(["rule", ">bytes"], [["Adam", 8], ["SM3", 1]]))
    rule   bytes
    ────────────
    Adam       8
    SM3        1
    """
    made = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def printable(value: Any) -> str:
    r"""``str(value)`` with control characters escaped: names from a file must not steer the terminal.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def print_json(value: Any) -> None:
    """Print ``value`` as strict JSON: NaN and infinities become null, NumPy scalars become numbers."""
    click.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def check_folder(output: Path) -> None:
    """Before long work: whether its page can be written at all."""
    folder = output.resolve().parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise click.BadParameter(
            f"the folder {folder} does not exist or cannot be written", param_hint="--output"
        )


def write(output: Path, text: str) -> None:
    """All of it or nothing: an older page survives a full disk."""
    descriptor, name = tempfile.mkstemp(dir=output.resolve().parent, prefix=output.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, output)
    except BaseException:
        os.unlink(name)
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return parse_size(value, where=param.opts[0] if param else "size")


#: Type of an option that takes a size such as ``24GiB``.
SIZE = _Size()
