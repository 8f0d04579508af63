"""``memopt checkpoint``: what a saved optimizer holds, and whether every byte of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..checkpoint import Contents, inspect, verify
from ..checkpoint.header import Leaf
from ..checkpoint.layout import Tensor, kind
from ..checkpoint.values import NotStored
from ..errors import CheckpointError
from ..sizes import format_size
from .output import console, json_option, print_json, printable, table


@click.group()
def checkpoint() -> None:
    """What a saved optimizer holds, and whether every byte of it is whole. Both commands take --json."""


@checkpoint.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--per-tensor", is_flag=True, help="Every tensor too: dtype, shape, place, checksum.")
@json_option
def inspect_(file: Path, per_tensor: bool, as_json: bool) -> None:
    """Rules, options, parameters and bytes of state, from the header alone."""
    contents = inspect(file)
    if as_json:
        print_json(_members(contents, per_tensor))
        return
    out = console()
    found = contents.options
    size = f"{contents.nbytes:,} bytes ({format_size(contents.nbytes)})"
    lines = [
        f"{contents.path}: {size}, after {contents.step:,} steps, by memopt_ref {contents.library}",
        f"nonfinite={found.nonfinite!r}, max_norm={found.max_norm}",
        *(f"rule {k}: {rule}" for k, rule in enumerate(found.rules)),
    ]
    for line in lines:
        out.print(printable(line), markup=False, soft_wrap=True)
    out.print()
    slots = _slots(contents)
    rows = [
        [leaf.path or "(the array)", leaf.kind, str(leaf.rule), *_slot_cells(slots.get(leaf.path, []))]
        for leaf in contents.leaves
    ]
    out.print(table(["parameter", "", ">rule", "slots", ">bytes of state"], rows))
    if per_tensor:
        out.print()
        columns = ["tensor", "", ">first byte", ">bytes", "XXH3-128"]
        places = [
            [t.name, kind(t.dtype, t.shape), f"{t.begin:,}", f"{t.end - t.begin:,}", t.checksum]
            for t in contents.tensors
        ]
        out.print(table(columns, places))


@checkpoint.command("verify")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@json_option
@click.pass_context
def verify_(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte against its checksum, and the tensors against what the stored rules ask for.

    Exit code 1 if a file is damaged, incomplete or cannot be read.
    """
    verdicts: list[dict[str, Any]] = []
    for file in files:
        try:
            found = verify(file)
            verdicts.append({"path": str(file), "whole": True, "step": found.step, "nbytes": found.nbytes})
            line = f"{file}: whole, {found.nbytes:,} bytes, after {found.step:,} steps"
        except CheckpointError as error:
            verdicts.append({"path": str(file), "whole": False, "error": str(error)})
            line = f"REFUSED {error}"
        if not as_json:
            click.echo(printable(line))
    if as_json:
        print_json(verdicts)
    ctx.exit(0 if all(verdict["whole"] for verdict in verdicts) else 1)


def _slots(contents: Contents) -> dict[str, list[Tensor]]:
    slots: dict[str, list[Tensor]] = {}
    for tensor in contents.tensors:
        if tensor.name.startswith("state/"):
            slots.setdefault(tensor.name[6:].rpartition("/")[0], []).append(tensor)
    return slots


def _slot_cells(tensors: list[Tensor]) -> list[str]:
    names = (f"{t.name.rpartition('/')[2]} {kind(t.dtype, t.shape)}" for t in tensors)
    return [", ".join(names), f"{sum(t.end - t.begin for t in tensors):,}"]


def _members(contents: Contents, per_tensor: bool) -> dict[str, Any]:
    found, slots = contents.options, _slots(contents)
    members: dict[str, Any] = {
        "path": contents.path,
        "nbytes": contents.nbytes,
        "library": contents.library,
        "step": contents.step,
        "nonfinite": found.nonfinite,
        "max_norm": found.max_norm,
        "rules": [{"rule": str(rule), "stored": not isinstance(rule, NotStored)} for rule in found.rules],
        "params": any(t.name.startswith("params/") for t in contents.tensors),
        "leaves": [_leaf(leaf, slots.get(leaf.path, [])) for leaf in contents.leaves],
    }
    if per_tensor:
        members["tensors"] = [t._asdict() for t in contents.tensors]
    return members


def _leaf(leaf: Leaf, tensors: list[Tensor]) -> dict[str, Any]:
    return {
        "path": leaf.path,
        "dtype": leaf.kind.partition("[")[0],
        "shape": list(leaf.shape),
        "rule": leaf.rule,
        "slots": {t.name.rpartition("/")[2]: kind(t.dtype, t.shape) for t in tensors},
        "state_nbytes": sum(t.end - t.begin for t in tensors),
    }
