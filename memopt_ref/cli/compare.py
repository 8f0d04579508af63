"""``memopt compare``: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..demo import page, report
from ..demo.compare import Progress, Settings, number_of_runs
from ..demo.compare import compare as run_all
from ..demo.contenders import CONTENDERS, choose
from ..demo.corpus import read_corpus
from ..demo.outcome import Comparison
from ..demo.train import Run
from .output import check_folder, console, json_option, table, write

#: On the reference: to compile kernels would take as long as the runs.
QUICK = {"steps": 160, "seeds": 1, "rates": 2, "backend": "numpy"}


@click.command()
@click.option(
    "--corpus", type=click.Path(), help="A text file or a folder of text; default: Python's own library."
)
@click.option("--steps", type=int, help=f"Steps of a final run [default: {Settings.steps}].")
@click.option("--seeds", type=int, help=f"Final runs of each optimizer [default: {Settings.seeds}].")
@click.option(
    "--quick", is_flag=True, help="A rough picture in seconds: 160 steps, one seed, two rates, NumPy."
)
@click.option(
    "--rules", help="Comma-separated, of: " + ", ".join(c.key for c in CONTENDERS) + " [default: all]."
)
@click.option("--jobs", type=int, default=0, help="Runs at a time [default: one a core, at most 8].")
@click.option("--backend", help="Kernels of the optimizers: auto, numpy, numba or cupy [default: auto].")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("memopt-compare.html"),
    show_default=True,
    help="The page to write.",
)
@json_option
def compare(
    corpus: str | None,
    steps: int | None,
    seeds: int | None,
    quick: bool,
    rules: str | None,
    jobs: int,
    backend: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Train one language model on real text with every optimizer, and report quality against bytes.

    Prints tables and writes one self-contained HTML page. The same text, steps and seeds give the same
    perplexities; seconds are this machine's. Directions of the papers that do not hold here are shown and do
    not change the exit code.
    """
    given = {"steps": steps, "seeds": seeds, "jobs": jobs, "backend": backend}
    chosen: dict[str, Any] = {**(QUICK if quick else {}), **{k: v for k, v in given.items() if v is not None}}
    settings = Settings(**chosen)
    contenders = choose([key.strip() for key in rules.split(",")] if rules else None)
    check_folder(output)
    text = read_corpus(corpus)
    log = console(stderr=True)
    log.print(text.describe(), soft_wrap=True, markup=False)
    with _progress(number_of_runs(contenders, settings)) as tell:
        comparison = run_all(text, contenders, settings, tell)
    write(output, page.html(comparison))
    if as_json:
        click.echo(report.json_text(comparison))
    else:
        _print(comparison)
    log.print(f"Written: {output}", soft_wrap=True, markup=False)


def _print(comparison: Comparison) -> None:
    out = console()
    out.print(page.introduction(comparison), markup=False)
    for sheet in report.SHEETS:
        made = sheet(comparison)
        out.print()
        out.print(table(made.columns, made.rows, title=made.title))
        if made.note:
            out.print(made.note, style="dim", markup=False)


@contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """A live bar on a terminal; elsewhere one line a final run."""
    log = console(stderr=True)
    if not log.is_terminal:
        yield lambda run, left: log.print(_line(run, left), markup=False) if run.trial.final else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=log, transient=True) as bar:
        task = bar.add_task("learning rates", total=total)

        def tell(run: Run, left: int) -> None:
            bar.update(task, completed=total - left, description=_line(run, None))

        yield tell


def _line(run: Run, left: int | None) -> str:
    trial = run.trial
    perplexity = run.validation_perplexity if run.test_perplexity is None else run.test_perplexity
    to_come = "" if left is None else f" ({left} runs to come)"
    reached = f"{report.shown(perplexity)}{to_come}"
    return f"{trial.contender.key} at {trial.learning_rate:g}, seed {trial.seed}: {reached}"
