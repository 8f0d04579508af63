"""``memopt bench``: this machine's table of steps against the memory's limit and other libraries."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ..bench import gate as gates
from ..bench import machine, measure, peers
from ..bench.rows import ENTRIES, Row, rows
from .output import console, json_option, print_json, table, write

FILE = click.Path(dir_okay=False, path_type=Path)
NAMES = tuple(row.name for row in rows(2**12))


def _libraries(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    wanted = tuple(name for name in value.split(",") if name)
    for name in wanted:
        if name not in peers.PEERS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(peers.PEERS)}")
        if not peers.installed(name):
            raise click.BadParameter(f"{name} is not installed here (pip install 'memopt-ref[oracles]')")
    return wanted


@click.command(short_help="Time the kernels against the memory's limit and other libraries.")
@click.option(
    "--against",
    default="",
    callback=_libraries,
    help=f"Libraries, comma-separated: {', '.join(peers.PEERS)}.",
)
@click.option("--row", "wanted", multiple=True, type=click.Choice(NAMES), help="Only this row; repeatable.")
@click.option(
    "--entries",
    default=ENTRIES,
    type=click.IntRange(2**12, 2**30),
    show_default=True,
    help="Of a dense tensor.",
)
@click.option("--rounds", default=15, type=click.IntRange(1, 1000), show_default=True, help="Of each row.")
@click.option("--backend", default="auto", show_default=True, help="Whose kernels are timed.")
@click.option("--gate", type=FILE, help="Hold the kernels against a table of ratios instead; 1 if one lost.")
@click.option("--write-gate", type=FILE, help="Write that table from repeated runs on this machine.")
@click.option(
    "--repeats", default=10, type=click.IntRange(3, 100), show_default=True, help="Runs for --write-gate."
)
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    against: tuple[str, ...],
    wanted: tuple[str, ...],
    entries: int,
    rounds: int,
    backend: str,
    gate: Path | None,
    write_gate: Path | None,
    repeats: int,
    as_json: bool,
) -> None:
    """Time one step of each optimizer, in one process, every contestant in turn.

    Figures are multiples of the limit, w -= lr * g over as many float32 entries by every thread: least time
    over least time. "checked" is the default, nonfinite="raise"; the other columns are without that check, as
    the other libraries are. A round during which something else ran on the machine is played again; rows that
    stay disturbed are marked with a star and are not to be quoted.
    """
    if write_gate is not None or gate is not None:
        os.environ["MEMOPT_TUNE"] = "off"  # the kernels as they are, not as this machine has tuned them
    if write_gate is not None:
        _write_gate(write_gate, repeats)
    if gate is not None:
        ctx.exit(_hold(gate, as_json))
    if write_gate is not None:
        return
    if as_json or not console(stderr=True).is_terminal:
        results = [measure.measure(row, against, rounds, backend) for row in _asked(wanted, entries)]
    else:
        results = []
        asked = _asked(wanted, entries)
        with console(stderr=True).status("") as status:
            for k, row in enumerate(asked):
                status.update(f"{row.name} ({k + 1} of {len(asked)})")
                results.append(measure.measure(row, against, rounds, backend))
    where = machine.describe()
    if as_json:
        print_json({"machine": where, "entries": entries, "rows": [as_record(r) for r in results]})
        return
    shown = console()
    shown.print(", ".join(f"{name} {value}" for name, value in where.items()))
    shown.print(f"multiples of w -= lr * g, {entries:,} float32 entries; * disturbed\n")
    libraries = [name for name in against if any(name in r.timings for r in results)]
    columns = ["step", "kernel", ">memopt", ">median", ">checked", *(f">{name}" for name in libraries)]
    columns += [">bar", ">goal", "reaches"]
    shown.print(table(columns, [_line(r, libraries) for r in results]))


def _write_gate(path: Path, repeats: int) -> None:
    log = console(stderr=True)
    found = gates.record(repeats, lambda done: log.print(f"run {done} of {repeats}"))
    write(path, json.dumps(found, indent=1) + "\n")


def _hold(path: Path, as_json: bool) -> int:
    known = gates.read(path)
    lost, best = gates.check(known)
    if as_json:
        rows = {name: {**place._asdict()} for name, place in best.items()}
        print_json({"rows": rows, "lost": [row._asdict() for row in lost]})
        return int(bool(lost))
    rows = known["rows"]
    lines = [
        [name, *(f"{at:.3g} (at most {_allowed(rows[name][to]):.3g})" for to, at in place._asdict().items())]
        for name, place in best.items()
    ]
    console().print(table(["kernel, one thread", ">x limit", ">x NumPy"], lines))
    for row in lost:
        console().print(f"lost its place: {row}", markup=False)
    console().print(f"{len(best)} kernels, {len(lost)} places lost")
    return int(bool(lost))


def _allowed(mark: dict[str, float]) -> float:
    return mark["ratio"] * mark["margin"]


def _asked(wanted: tuple[str, ...], entries: int) -> list[Row]:
    return [row for row in rows(entries) if not wanted or row.name in wanted]


def _line(result: measure.Result, libraries: list[str]) -> list[str]:
    def multiple(name: str) -> str:
        found = result.of_limit(name)
        return "-" if found is None else f"{found:.2f}"

    row = result.row
    unit = "" if row.against == measure.LIMIT else f" of {row.against}"
    marks = [f"{mark:g}{unit}" if mark is not None else "-" for mark in (row.bar, row.goal)]
    reached = result.verdict
    if row.against != measure.LIMIT and reached != "-":
        reached += f" ({result.ratio:.2f})"
    return [
        row.name + (" *" if result.disturbed * 2 > result.rounds else ""),
        result.kernel,
        multiple(measure.OURS),
        f"{result.timings[measure.OURS].median_ratio:.2f}",
        multiple(measure.CHECKED),
        *(multiple(name) for name in libraries),
        *marks,
        reached,
    ]


def as_record(result: measure.Result) -> dict[str, Any]:
    """A row's figures for ``--json``."""
    row = result.row
    return {
        "name": row.name,
        "rule": repr(row.rule),
        "dtype": row.dtype,
        "kernel": result.kernel,
        "contestants": {
            name: {"of_limit": t.ratio, "median": t.median_ratio, "seconds": t.seconds}
            for name, t in result.timings.items()
        },
        "against": result.against,
        "ratio": result.ratio,
        "bar": row.bar,
        "goal": row.goal,
        "reaches": result.verdict,
        "rounds": result.rounds,
        "disturbed": result.disturbed,
    }
