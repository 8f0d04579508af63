"""``memopt tune``: which kernel is the fastest on this machine, measured and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..backends import tuning
from ..backends.tuning.ahead import COMMON, Tuned
from ..planned import label
from ..shapes import shapes_from_text
from .output import console, json_option, print_json, printable, table
from .rule_text import parse_rules

#: Rules whose speed someone will care for, with the options that have kernels of their own.
DEFAULT_RULES = (
    "SGD, SGD(momentum=0.9), AdaGrad, RMSProp, Adam, AdamW, AMSGrad, SM3, SM3(momentum=0.9), Adafactor, "
    "MicroAdam"
)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(invoke_without_command=True)
@click.option("--rules", default=DEFAULT_RULES, metavar="RULES", help='Such as "Adam, SM3(momentum=0.9)".')
@click.option("--shapes", "text", metavar="TEXT", help='Such as "emb=30522x768,b=768:bfloat16".')
@click.option("--dtype", default="float32", show_default=True, help="Where --shapes does not say.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 600),
    default=1.0,
    show_default=True,
    help="For a key, compiling apart.",
)
@click.option("--anew", is_flag=True, help="Measure what is stored too.")
@click.option("--backend", default="auto", show_default=True, help="Whose kernels compete.")
@json_option
@click.pass_context
def tune(
    ctx: click.Context,
    rules: str,
    text: str | None,
    dtype: str,
    seconds: float,
    anew: bool,
    backend: str,
    as_json: bool,
) -> None:
    """Measure which kernel steps a tensor fastest here, and keep it for every later run.

    All kernels that compete have the same bits, and each is held against the reference before it is timed, so
    this changes the speed of an optimizer and never its result. Without --shapes the common sizes are
    measured. Run it while nothing else runs: what is measured in company is not kept.

    Exit code 1 if a kernel was left out because its bits are wrong, or if company kept anything from being
    kept. The subcommands list, clear, export and import take --json too.
    """
    if ctx.invoked_subcommand is not None:
        return
    shapes: Any = COMMON if text is None else shapes_from_text(text, dtype).values()
    with _progress() as tell:
        found = tuning.tune(parse_rules(rules).values(), shapes, dtype, seconds, anew, backend, tell)
    if as_json:
        print_json([_record(one) for one in found])
    else:
        rows = [
            [label(one.rule), _kind(one), one.status, *_gain(one), one.why if one.entry is None else ""]
            for one in found
        ]
        columns = ["rule", "tensor", "", "kernel", ">faster than the default by", ""]
        console().print(table(columns, rows))
    wrong = [one for one in found if one.entry is not None and one.entry.wrong]
    unkept = [one for one in found if one.status in ("busy", "waited")]
    if unkept and not as_json:
        what = f"{len(unkept)} of {len(found)} were measured in company and are not kept"
        console(stderr=True).print(f"{what}: run it again when nothing else runs.", markup=False)
    ctx.exit(1 if wrong or unkept else 0)


@tune.command("list")
@json_option
def list_(as_json: bool) -> None:
    """What was measured on this machine with these versions and sources."""
    found = [entry for _, entry in tuning.entries()]
    if as_json:
        print_json([_entry(entry) for entry in found])
        return
    out = console()
    out.print(f"{len(found)} keys in {tuning.folder()}", markup=False, soft_wrap=True)
    for entry in found:
        out.print()
        out.print(printable(entry.key), markup=False, soft_wrap=True)
        least = max(1e-9, min(entry.seconds.values(), default=1.0))
        for name, seconds in sorted(entry.seconds.items(), key=lambda pair: pair[1]):
            taken = " <- taken" if name == _chosen(entry) else ""
            default = " (the default)" if name == entry.default else ""
            out.print(f"    {seconds / least:6.2f}  {printable(name)}{default}{taken}", markup=False)
        for name, why in (entry.slow | entry.wrong).items():
            out.print(f"       out  {printable(name)}: {printable(why)}", markup=False, soft_wrap=True)


@tune.command()
@click.option("--everywhere", is_flag=True, help="Those of other versions, sources and machines too.")
@json_option
def clear(everywhere: bool, as_json: bool) -> None:
    """Remove what was measured."""
    removed = tuning.clear(everywhere)
    if as_json:
        print_json({"removed": removed})
    else:
        click.echo(f"{removed} keys removed")


@tune.command("export")
@click.argument("file", type=FILE)
@json_option
def export_(file: Path, as_json: bool) -> None:
    """Write what was measured to FILE, for equal machines."""
    count = tuning.export_wisdom(file)
    if as_json:
        print_json({"path": str(file), "keys": count})
    else:
        click.echo(printable(f"{count} keys written to {file}"))


@tune.command("import")
@click.argument("file", type=FILE)
@json_option
def import_(file: Path, as_json: bool) -> None:
    """Take over what an equal machine has measured: all of FILE, or nothing."""
    count = tuning.import_wisdom(file)
    if as_json:
        print_json({"path": str(file), "keys": count})
    else:
        click.echo(printable(f"{count} keys taken from {file}"))


@contextmanager
def _progress() -> Iterator[Callable[[Tuned, int, int], None]]:
    """A live bar on a terminal; elsewhere one line a key, on stderr."""
    log = console(stderr=True)
    if not log.is_terminal:
        yield lambda one, done, total: log.print(_line(one, done, total), markup=False, soft_wrap=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=log, transient=True) as bar:
        task = bar.add_task("compiling", total=None)

        def tell(one: Tuned, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{label(one.rule)} {_kind(one)}")

        yield tell


def _line(one: Tuned, done: int, total: int) -> str:
    return printable(f"{done} of {total}: {label(one.rule)} {_kind(one)}: {one.why}")


def _kind(one: Tuned) -> str:
    return f"{one.dtype}[{', '.join(map(str, one.shape))}]"


def _gain(one: Tuned) -> list[str]:
    if one.entry is None:
        return ["", ""]
    chosen, entry = _chosen(one.entry), one.entry
    if not {chosen, entry.default} <= entry.seconds.keys():
        return [chosen, "-"]
    gain = entry.seconds[entry.default] / max(entry.seconds[chosen], 1e-9) - 1
    return [chosen, f"{100 * gain:.0f} %" if chosen != entry.default else ""]


def _chosen(entry: Any) -> str:
    from ..backends.tuning.candidates import label as name_of

    return name_of(entry.variant, entry.knobs)


def _entry(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def _record(one: Tuned) -> dict[str, Any]:
    return {
        "rule": label(one.rule),
        "shape": list(one.shape),
        "dtype": one.dtype,
        "status": one.status,
        "why": one.why,
        "entry": None if one.entry is None else _entry(one.entry),
    }
