"""``memopt verify``: whether the theorems hold for the rules, and which link of a proof breaks if not."""

from __future__ import annotations

import click
from rich.progress import Progress

from ..errors import HyperparameterError
from ..theory import bounds as theorems
from ..theory import catalogue, games, suites
from ..theory import verify as theory
from ..theory.constants import brackets, known
from ..theory.suites import Entry
from ..theory.verify import VIOLATED, Record
from .output import console, json_option, print_json, table
from .verify_attack import attack, replay
from .verify_foreign import foreign
from .verify_report import report


@click.group()
def verify() -> None:
    """Regret bounds held against the rules of this library; every subcommand takes --json.

    Verdicts: N/A (an assumption about the game is not met), VIOLATED, UNPROVEN (the bound held, a link of its
    proof does not, or the best comparator is not known well enough), VACUOUS (no better than the diameter
    times the gradients), TIGHT (ratio >= 0.99), HOLDS.

    Exit codes: 0 every verdict is as expected; 1 one is not, or a mutant survives; 2 the input is wrong; 3
    only a comparator is not known well enough.
    """


verify.add_command(attack)
verify.add_command(replay)
verify.add_command(foreign)
verify.add_command(report)


@verify.command("list")
@click.option("--family", metavar="NAME", help="One family, such as adagrad.")
@click.option("--markdown", is_flag=True, help="The documentation's page, with sources and errata.")
@click.option("--constants", is_flag=True, help="Between what the true constants are known to lie.")
@json_option
def list_(family: str | None, markdown: bool, constants: bool, as_json: bool) -> None:
    """The theorems, by family."""
    if constants:
        _list_constants(as_json)
        return
    if markdown:
        click.echo(catalogue.markdown(), nl=False)
        return
    found = [b for b in theorems.all_bounds().values() if family in (None, b.family)]
    if not found:
        wanted = f"one of {', '.join(theorems.FAMILIES)}"
        raise HyperparameterError("--family", repr(family), wanted, "Leave it out to see all.")
    if as_json:
        print_json([catalogue.sheet(bound) for bound in found])
        return
    rows = [[b.id, catalogue.kind(b), b.D, b.statement] for b in found]
    console().print(table(["id", "kind", "D", "statement"], rows))


def _list_constants(as_json: bool) -> None:
    found = list(brackets())
    if as_json:
        names = ("below", "above", "witness", "T", "tends", "why")
        print_json([{"bound": b.bound.id} | {name: getattr(b, name) for name in names} for b in found])
        return
    rows = []
    for b in found:
        numbers = [f"{b.below:.4g}", "tends to 1" if b.tends else "", f"{b.above:.4g}"]
        rows.append([b.bound.id, *numbers, b.witness, str(b.T), b.why])
    console().print(table(["id", ">below", "", ">above", "worst play known", ">T", "above by"], rows))


@verify.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One theorem: statement, source, errata, which D, the proof."""
    bound = theorems.get(name)
    if as_json:
        print_json(catalogue.sheet(bound))
        return
    out = console()
    for heading, text in catalogue.sheet(bound).items():
        if text not in ("", False):
            out.print(f"{heading:12} {text}", markup=False, soft_wrap=True)
    for bracket in known(name):
        out.print(f"{'constant':12} {bracket}", markup=False, soft_wrap=True)


@verify.command()
@click.option("--suite", type=click.Choice(sorted(suites.SUITES)), default="core", show_default=True)
@click.option(
    "--bound", "name", metavar="ID", help="Only this theorem, or family; with --game any play of it."
)
@click.option("--game", "game", metavar="NAME", help=f"One of {', '.join(games.BY_NAME)}.")
@click.option("-T", "rounds", type=click.IntRange(1), default=256, show_default=True, help="With --game.")
@click.option("--dtype", type=click.Choice(["float64", "float32"]), default="float64", show_default=True)
@json_option
@click.pass_context
def run(
    ctx: click.Context,
    suite: str,
    name: str | None,
    game: str | None,
    rounds: int,
    dtype: str,
    as_json: bool,
) -> None:
    """Play and judge: a suite, a part of it, or one bound on one game.

    Suites: core (every theorem, half a minute at most), full (longer games too), kernels
    (theorems held against the fast kernels that can run here, with every bit that they write).
    """
    entries = _entries(suite, name, game, rounds, dtype)
    records = []
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("playing", total=len(entries))
        for record in suites.run(entries):
            records.append(record)
            progress.update(task, advance=1, description=record.bound)
    code = suites.exit_code(records)
    if as_json:
        print_json({"exit_code": code, "records": [record.to_dict() for record in records]})
    else:
        _show(records)
    ctx.exit(code)


def _entries(suite: str, name: str | None, game: str | None, rounds: int, dtype: str) -> list[Entry]:
    if game is not None:
        if game not in games.BY_NAME:
            wanted = f"one of {', '.join(games.BY_NAME)}"
            raise HyperparameterError("--game", repr(game), wanted, "Check the spelling.")
        if name is None:
            raise HyperparameterError("--bound", "nothing", "a theorem", "Name one with --bound.")
        bound = theorems.get(name)
        bad = (VIOLATED, theory.UNPROVEN)
        fine = tuple(v for v in theory.VERDICTS if bound.known_false or v not in bad)
        return [Entry(bound, games.BY_NAME[game], rounds, fine, dtype)]
    entries = suites.SUITES[suite]()
    chosen = [e for e in entries if name is None or name in (e.bound.id, e.bound.family)]
    if not chosen and not (suite == "kernels" and name is None):
        theorems.get(str(name))
        wanted = "a theorem of this suite"
        raise HyperparameterError("--bound", repr(name), wanted, "Play it with --game.")
    return chosen


def _show(records: list[Record]) -> None:
    out = console()
    out.print(
        table(
            ["bound", "player", "game", ">T", ">regret", ">bound", ">ratio", "verdict", ""],
            map(_row, records),
        )
    )
    unexpected = [record for record in records if not record.ok]
    for record in unexpected:
        line = f"{record.bound} on {record.game}, T = {record.T}: {record.verdict}"
        out.print(f"{line}, expected {' or '.join(record.expected)}", markup=False, soft_wrap=True)
        for text in record.broken or [record.reason]:
            out.print(f"    {text}", markup=False, soft_wrap=True)
    done = f"{len(records)} plays, {len(unexpected)} not as expected"
    out.print(f"\n{done}, {sum(record.seconds for record in records):.1f} s", markup=False)


def _row(record: Record) -> list[str]:
    if record.verdict == theory.NOT_APPLICABLE:
        return [record.bound, "", record.game, str(record.T), "", "", "", record.verdict, record.reason]
    broken = "; ".join(text.partition(":")[0] for text in record.broken)
    numbers = [f"{record.measured[0]:.4g}", f"{record.value:.4g}", f"{record.ratio:.3f}"]
    return [record.bound, record.player, record.game, str(record.T), *numbers, record.verdict, broken]


@verify.command()
@click.option("--only", default="", metavar="TEXT", help="Mutants whose name contains this.")
@json_option
@click.pass_context
def mutate(ctx: click.Context, only: str, as_json: bool) -> None:
    """Wrong rules that claim a bound, and what catches each. Exit code 1 if one survives."""
    from ..theory import mutants

    names = [m.id for m in mutants.table() if only in m.id]
    if not names:
        known = ", ".join(m.id for m in mutants.table())
        raise HyperparameterError("--only", repr(only), f"a part of one of {known}", "Check the spelling.")
    kills = []
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("playing", total=len(names))
        for kill in mutants.kill_matrix(only):
            kills.append(kill)
            progress.update(task, advance=1, description=kill.mutant.id)
    survivors = [kill.mutant.id for kill in kills if not kill.killed]
    if as_json:
        rows = [
            {
                "mutant": k.mutant.id,
                "title": k.mutant.title,
                "bound": k.mutant.bound.id,
                "ratio": k.sharp.ratio,
                "by_ratio": k.by_ratio,
                "link": k.mutant.link,
                "by_link": k.by_link,
                "broken_on_dull_game": k.dull.broken,
                "killed": k.killed,
            }
            for k in kills
        ]
        said = {"negatives": mutants.NEGATIVES, "formulas": mutants.FORMULAS}
        print_json({"mutants": rows, "survivors": survivors, **said})
    else:
        shown = [
            [
                k.mutant.id,
                k.mutant.bound.id,
                k.sharp.game,
                f"{k.sharp.ratio:.3f}",
                "yes" if k.by_ratio else "",
                "; ".join(text.partition(":")[0] for text in k.dull.broken),
            ]
            for k in kills
        ]
        out = console()
        columns = ["mutant", "claims", "sharp game", ">ratio", "by ratio", "links broken on a dull game"]
        out.print(table(columns, shown))
        out.print("\nHonest negatives, which no ratio here sees:", markup=False)
        for what, instead in mutants.NEGATIVES.items():
            out.print(f"  {what}: {instead}", markup=False, soft_wrap=True)
        out.print("\nLinks that nothing played can break:", markup=False)
        for link, why in mutants.FORMULAS.items():
            out.print(f"  {link}: {why}", markup=False, soft_wrap=True)
        out.print(f"\n{len(kills)} mutants, {len(survivors)} survive: {', '.join(survivors)}", markup=False)
    ctx.exit(1 if survivors else 0)
