"""The theorems as words: sheets for the command line and the report, and the documentation's table.

All of it is read off the objects that are tested, so that what is printed is what is played.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from . import bounds
from .bounds import Bound

WORDS = {
    "chain": "theorem",
    "formula": "formula",
    "known-false": "false",
}

#: What writes the documentation's page.
COMMAND = "memopt verify list --markdown > docs/bounds.md"


def kind(bound: Bound) -> str:
    """What a statement is: a theorem for every rate, a tuned corollary, or a statement kept to be caught."""
    if bound.known_false:
        return "false"
    return "corollary" if bound.corollary else WORDS.get(bound.kind, bound.kind)


def sheet(bound: Bound) -> dict[str, Any]:
    """Everything that is said about one bound.

    Examples
    --------
    >>> sheet(bounds.get("ogd.tuned"))["D"]
    'start, l2'
    """
    return {
        "id": bound.id,
        "statement": bound.statement,
        "source": bound.source,
        "errata": bound.errata,
        "D": f"{bound.D}, {bound.norm}",
        "kind": bound.kind,
        "corollary": bound.corollary,
        "known_false": bound.known_false,
        "about": plain(" ".join((type(bound).__doc__ or "").split())),
    }


def plain(docstring: str) -> str:
    """Without roles of documentation tools.

    Examples
    --------
    >>> plain("attained by :func:`..games.zigzag_run`")
    'attained by games.zigzag_run'
    """
    return re.sub(r":\w+:`[.~]*([^`]*)`", r"\1", docstring)


def proof(family: str) -> str:
    """The docstring of a family's file: sources and proofs."""
    return plain(inspect.cleandoc(importlib.import_module(f".{family}", bounds.__name__).__doc__ or ""))


def families() -> dict[str, list[Bound]]:
    """The bounds by the file that defines them."""
    return {
        family: list(importlib.import_module(f".{family}", bounds.__name__).BOUNDS)
        for family in bounds.FAMILIES
    }


def markdown() -> str:
    """The documentation's page: one table a family."""
    count = len(bounds.all_bounds())
    false = sum(bound.known_false for bound in bounds.all_bounds().values())
    lines = [
        "# The bounds that are tested",
        "",
        f"Written by `{COMMAND}` from the objects that `memopt verify` plays: {count} statements, of "
        f"which {false} are false and kept to be caught. R is the regret, u the comparator, T the number of "
        "rounds, g_t the gradients; D says which distance is meant: a diameter of the domain, a distance "
        "from the start, or one along the trajectory, in the norm that is named.",
        "",
    ]
    for family, members in families().items():
        title = proof(family).partition("\n")[0].rstrip(".")
        lines += [f"## {family}: {title}", "", "| id | kind | D | statement | source | errata |"]
        lines += ["|---|---|---|---|---|---|"]
        for b in members:
            cells = [f"`{b.id}`", kind(b), f"{b.D}, {b.norm}", b.statement, b.source, b.errata]
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    # A bar would end the cell; stars and underscores between letters are no emphasis in a table of formulas.
    escaped = " ".join(text.split())
    if not escaped.startswith("`"):
        for sign in ("\\", "*", "_", "|", "<"):
            escaped = escaped.replace(sign, "\\" + sign)
    return escaped
