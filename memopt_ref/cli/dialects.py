"""``memopt dialects``: one name, many algorithms."""

from __future__ import annotations

from typing import Any

import click

from ..dialects.table import NAMES, RATE, SHAPE, STEPS, Row, compare
from .output import console, json_option, print_json, table


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--seed", default=0, show_default=True, help="Of the problem on which the distance is measured."
)
@json_option
def dialects(names: tuple[str, ...], seed: int, as_json: bool) -> None:
    """Conventions of other libraries' optimizers side by side, and how far apart they move.

    NAME is adam, adamw, amsgrad, adagrad, rmsprop, adafactor, sm3, shampoo, ftrl or sgd; without one, all are
    shown. Each call has its library's defaults and the learning rate 0.01.
    """
    compared = {name.lower(): compare(name, seed=seed) for name in names or NAMES}
    if as_json:
        print_json(
            [{"name": name, "rows": [row.to_dict() for row in rows]} for name, rows in compared.items()]
        )
        return
    out = console()
    problem = f"one {SHAPE[0]}x{SHAPE[1]} float32 problem (seed {seed})"
    out.print(
        f"difference: relative L2 distance of the movement over {STEPS} steps from the paper's form, "
        f"on {problem}, learning rate {RATE}",
        markup=False,
    )
    for name, rows in compared.items():
        out.print()
        columns = [name, "differs from the paper's form in", ">difference"]
        out.print(table(columns, [_cells(row) for row in rows]))


def _cells(row: Row) -> list[Any]:
    call = f"paper: {row.call}" if row.library == "paper" else row.call
    if row.rule is None:
        return [call, f"no rule: {row.note}", "-"]
    conventions = ", ".join(f"{name}={here!r} (paper {was!r})" for name, (was, here) in row.differs.items())
    return [call, conventions, f"{row.difference:.2g}"]
