"""``memopt verify report``: everything on one page."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..theory import report as pages
from .output import check_folder, console, json_option, write


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default=Path("memopt-verify.html"),
    show_default=True,
    help="The page to write.",
)
@json_option
@click.pass_context
def report(ctx: click.Context, output: Path, as_json: bool) -> None:
    """Write one self-contained HTML page: theorems, ratios, broken links, wrong rules, worst sequences.

    Plays the core suite and every mutant: up to a minute. The exit code is that of memopt verify run, or 1 if
    a mutant survives; the page is written all the same.
    """
    check_folder(output)
    log = console(stderr=True)
    columns = (TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=log, transient=True) as bar:
        task = bar.add_task("playing", total=None)
        found = pages.gather(
            tell=lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
        )
    write(output, pages.html(found))
    if as_json:
        click.echo(pages.json_text(found))
    else:
        out = console()
        odd = [r for r in found.records if not r.ok]
        lost = [kill.mutant.id for kill in found.kills if not kill.killed]
        out.print(f"{len(found.records)} plays, {len(odd)} not as expected", markup=False)
        for r in odd:
            text = f"    {r.bound} on {r.game}, T = {r.T}: {r.verdict}, expected {' or '.join(r.expected)}"
            out.print(text, markup=False, soft_wrap=True)
        out.print(f"{len(found.kills)} mutants, {len(lost)} survive {' '.join(lost)}".rstrip(), markup=False)
    log.print(f"Written: {output}", markup=False, soft_wrap=True)
    ctx.exit(found.exit_code)
