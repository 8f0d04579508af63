"""``memopt backends``: which kernels can run here, which rule has one, and where they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click

import memopt_ref

from .. import backends as rooms
from ..backends import tuning
from ..backends.folders import base_folder
from ..backends.tuning.store import places
from ..errors import BackendError
from ..rules.base import Rule
from ..shapes import ShapeDtype, shapes_from_text
from ..sizes import format_size
from .output import console, json_option, print_json, printable, table
from .rule_text import parse_rules

#: Numba's threading layers in the order in which it takes them, and the modules that hold them.
LAYERS = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
NAMES = ("rule", "kernel", "knobs", "why")
SETTINGS = (
    "MEMOPT_BACKEND",
    "MEMOPT_TUNE",
    "MEMOPT_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_DISABLE_JIT",
)


@click.command()
@click.option("--rules", metavar="RULES", help='Such as "Adam, SM3(variant="I")" [default: all].')
@click.option("--shape", "text", metavar="TEXT", help='Such as "1000x1000:bfloat16" [default: 768x768].')
@json_option
def backends(rules: str | None, text: str | None, as_json: bool) -> None:
    """Which backends can run here and why others cannot; which rule has a kernel and why others have none.

    A rule without a kernel runs on the reference: slower, with the same result. Then the threads that kernels
    may use, and the folders where compiled kernels and measured speeds are kept, with their sizes.
    """
    tensor = next(iter(shapes_from_text(f"w={text or '768x768'}").values()))
    chosen = _all_rules() if rules is None else parse_rules(rules)
    status = rooms.status()
    kernels = list(_kernels(chosen, tensor))
    threads = _threads(status)
    folders = _folders()
    found = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    if as_json:
        print_json(
            {
                "backends": [row._asdict() for row in status],
                "tensor": {"shape": list(tensor.shape), "dtype": tensor.dtype.name},
                "kernels": [dict(zip(NAMES, row, strict=True)) for row in kernels],
                "threads": threads,
                "tuning": tuning.mode(),
                "folders": folders,
                "settings": found,
            }
        )
        return
    out = console()
    lines = [[row.name, row.library, "yes" if row.available else "no", row.reason] for row in status]
    out.print(table(["backend", "arrays", "available", "reason"], lines))
    out.print()
    kind = f"{tensor.dtype}[{', '.join(map(str, tensor.shape))}]"
    out.print(table(["rule", f"kernel for {kind}", "knobs", "why"], kernels))
    out.print()
    for name, value in threads.items():
        out.print(printable(f"{name}: {value}"), markup=False, soft_wrap=True)
    out.print(f"tuning: {tuning.mode()}", markup=False)
    for folder in (f for f in folders if f["used"]):
        what = f"{folder['path']}: {folder['files']} {folder['what']}, {format_size(folder['nbytes'])}"
        out.print(printable(what), markup=False, soft_wrap=True)
    if others := [f for f in folders if not f["used"]]:
        size = format_size(sum(f["nbytes"] for f in others))
        out.print(f"folders of other versions beside them: {len(others)}, {size}", markup=False)
    for name, value in found.items():
        out.print(printable(f"{name}={value}"), markup=False, soft_wrap=True)


def _all_rules() -> dict[str, Rule]:
    kinds = {name: getattr(memopt_ref, name) for name in memopt_ref.__all__}
    rules = {n: k for n, k in kinds.items() if isinstance(k, type) and issubclass(k, Rule) and k is not Rule}
    return {name: kind() for name, kind in rules.items()}


def _kernels(rules: dict[str, Rule], tensor: ShapeDtype) -> Iterator[list[str]]:
    for name, rule in rules.items():
        try:
            with tuning.use_mode("off"):
                choice = rooms.select(rule, tensor.shape, tensor.dtype)
        except BackendError as error:
            yield [name, "-", "", str(error)]
        else:
            yield [name, choice.variant.name, ", ".join(choice.variant.knobs), choice.why]


def _threads(status: rooms.StatusTable) -> dict[str, Any]:
    """What Numba has to say on threads; empty without it."""
    from ..backends.tuning.machine import processors, threads_available

    told: dict[str, Any] = {"processors": processors()}
    if not any(row.name == "numba" and row.available for row in status):
        return told
    try:
        import numba
    except Exception as error:
        return told | {"numba": f"cannot be loaded ({error})"}
    layers = [name for name, module in LAYERS.items() if _importable(module)]
    wish = str(numba.config.THREADING_LAYER)
    return told | {
        "numba": metadata.version("numba"),
        "threads": threads_available(),
        "threading layers": ", ".join(layers) or "none",
        "threading layer": wish if wish in LAYERS else (layers or ["none"])[0],
    }


def _importable(module: str) -> bool:
    try:
        import_module(f"numba.np.ufunc.{module}")
    except ImportError:
        return False
    return True


def _folders() -> list[dict[str, Any]]:
    """Every folder of kernels and speeds, those of this installation first."""
    base, own = base_folder(), {tuning.folder().name, _kernels_folder()}
    try:
        homes = sorted(p for p in base.iterdir() if p.name.startswith(("numba-", "tuning-")) and p.is_dir())
    except OSError:
        homes = []
    rows = []
    for home in sorted(homes, key=lambda p: p.name not in own):
        sizes = [size for path in home.iterdir() if (size := _size(path)) is not None]
        what = "measured keys" if home.name.startswith("tuning-") else "compiled kernels"
        keys = len(places(home)) if home.name.startswith("tuning-") else len(sizes)
        rows.append(
            {"path": str(home), "what": what, "files": keys, "nbytes": sum(sizes), "used": home.name in own}
        )
    return rows


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


def _kernels_folder() -> str:
    """The name of the folder of compiled kernels, where Numba can be loaded."""
    try:
        cache = import_module("memopt_ref.backends.numba_cpu.cache")
    except Exception:
        return ""
    sources = [Path(place) for name in cache.SOURCES for place in import_module(name).__path__]
    return f"numba-{cache.hash_of(sources)}"
