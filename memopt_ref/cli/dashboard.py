"""``memopt dashboard``: the benchmark history as one page that works from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..bench import dashboard as pages
from ..bench import history
from ..errors import FileFormatError
from .output import check_folder, console, json_option, print_json, write

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="The benchmark history as one page that works from disk.")
@click.option(
    "--results",
    type=FOLDER,
    default=Path("asv_bench/results"),
    show_default=True,
    help="asv's folder of results.",
)
@click.option(
    "--main-job", type=FILE, help="What memopt compare --json printed. [default: beside the results]"
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    default=Path("memopt-dashboard.html"),
    show_default=True,
    help="The page to write.",
)
@json_option
def dashboard(results: Path, main_job: Path | None, output: Path, as_json: bool) -> None:
    """Write one self-contained HTML page: time, bandwidth, bytes and tightness over the commits.

    It reads what asv recorded and needs no network, neither to be written nor to be read.
    """
    check_folder(output)
    found = history.read(results)
    beside = results.parent / "main_job.json"
    job = _main_job(main_job or beside) if main_job or beside.exists() else None
    write(output, pages.html(found, job))
    if as_json:
        print_json({"written": str(output), "machines": {h.machine: len(h.commits) for h in found}})
        return
    for each in found:
        console().print(f"{each.machine}: {len(each.commits)} commits", markup=False)
    console(stderr=True).print(f"Written: {output}", markup=False, soft_wrap=True)


def _main_job(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in ("steps", "seeds", "model", "optimizers"):
            found[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        wanted, advice = "the record of a comparison", "Write it with: memopt compare --json > FILE."
        raise FileFormatError(str(path), f"{type(error).__name__}: {error}", wanted, advice) from error
    record: dict[str, Any] = found
    return record
