"""``memopt verify attack`` and ``replay``: the worst losses that a search finds, and their exact replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from ..errors import HyperparameterError
from ..theory import arenas, search
from ..theory import bounds as theorems
from ..theory import witness as witnesses
from ..theory.verify import NOT_APPLICABLE, VIOLATED
from .output import console, json_option, print_json

FILE = click.Path(path_type=Path, dir_okay=False)

#: Rounds up to which all sign sequences are tried.
MOST_SIGNS = 28


@click.command()
@click.argument("name")
@click.option("-T", "rounds", type=click.IntRange(2, 4096), default=20, show_default=True)
@click.option(
    "--search", "how", type=click.Choice(["hill", "signs"]), default="hill", show_default=True, help="Below."
)
@click.option("--factor", type=float, default=1.0, show_default=True, help="Of the bound's own rate.")
@click.option(
    "--generations", type=click.IntRange(1), help="Of hill climbing.  [default: 300, or 40 of fewer]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--save", type=FILE, metavar="FILE", help="Write the witness as JSON.")
@json_option
@click.pass_context
def attack(
    ctx: click.Context,
    name: str,
    rounds: int,
    how: str,
    factor: float,
    generations: int | None,
    seed: int,
    save: Path | None,
    as_json: bool,
) -> None:
    """Search for the worst loss sequence for one theorem, or for a wrong rate of it.

    Each theorem has an arena: an interval, a disc, a small matrix, play without projection, targets of
    quadratics, experts. Statements that no loss sequence can touch are N/A, with the reason.

    --search hill climbs from random sequences and from those that are known to hurt; --search signs tries all
    2^T sign sequences (T up to 28; bounds on an interval). A violation is replayed in exact or 50-digit
    arithmetic before it is reported, or beyond the measured rounding where a rule takes eigenvalues. Exit
    code 1 if the bound is violated.
    """
    bound = theorems.get(name)
    if not 0 < factor < float("inf"):
        raise HyperparameterError(
            "--factor", repr(factor), "a positive number", "1 attacks the theorem itself."
        )
    reason = arenas.why_not(bound)
    if reason:
        tell({"bound": name, "verdict": NOT_APPLICABLE, "reason": reason}, as_json)
        return
    gradients = _search(bound, rounds, how, factor, generations, seed)
    witness = witnesses.shorten(bound, gradients, factor)
    again = witnesses.replay(witness)
    if save is not None:
        witness.save(save)
    fields = {
        "bound": name,
        "factor": factor,
        "arena": witness.arena,
        "T": rounds,
        "search": how,
        "seed": seed,
        "ratio": again.ratio,
        "verdict": VIOLATED if again.violated else again.record.verdict,
        "violated": again.violated,
        "broken": again.record.broken,
        "arithmetic": again.kind,
        "gradients": list(witness.gradients),
    }
    tell(fields, as_json)
    ctx.exit(1 if again.violated else 0)


def _search(
    bound: theorems.Bound, rounds: int, how: str, factor: float, generations: int | None, seed: int
) -> Any:
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(bound.id, total=generations or search.size_of(bound, rounds)[0])
        if how == "signs":
            if rounds > MOST_SIGNS:
                raise HyperparameterError(
                    "-T", str(rounds), f"at most {MOST_SIGNS}", "Time doubles with each round."
                )
            return [float(sign) for sign in search.all_signs(bound, rounds, factor).signs]

        def note(done: int, ratio: float) -> None:
            progress.update(task, completed=done, description=f"{bound.id} {ratio:.4f}")

        return search.hill(bound, rounds, factor=factor, generations=generations, seed=seed, progress=note)[1]


@click.command()
@click.argument("file", type=FILE)
@json_option
@click.pass_context
def replay(ctx: click.Context, file: Path, as_json: bool) -> None:
    """Play a witness file again, in fractions or 50 digits. Exit code 1 if the bound is violated."""
    witness = witnesses.Witness.load(file)
    again = witnesses.replay(witness)
    fields = {
        "bound": witness.bound,
        "factor": witness.factor,
        "arena": witness.arena,
        "T": witness.rounds,
        "arithmetic": again.kind,
        "regret": again.regret,
        "value": again.value,
        "ratio": again.ratio,
        "verdict": VIOLATED if again.violated else again.record.verdict,
        "violated": again.violated,
        "links": again.record.links,
        "broken": again.record.broken,
    }
    tell(fields, as_json)
    ctx.exit(1 if again.violated else 0)


def tell(fields: dict[str, Any], as_json: bool) -> None:
    """One field a line, or JSON."""
    if as_json:
        print_json(fields)
        return
    out = console()
    for name, value in fields.items():
        # Numbers of a sequence stand beside each other, sentences below each other.
        listed = isinstance(value, list)
        between = "\n" + " " * 13 if listed and name == "broken" else " "
        text = between.join(map(str, value)) if listed else value
        out.print(f"{name:12} {text}", markup=False, soft_wrap=True)
