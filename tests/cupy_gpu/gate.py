"""What every kernel costs on three devices, held against a table that is kept with the tests.

    python -m tests.cupy_gpu.gate               compile all of them: what differs from the table
    python -m tests.cupy_gpu.gate --write       bring the table up to the kernels that have changed
    python -m tests.cupy_gpu.gate --write all   or to all of them, for the NVRTC that is installed

The compiler decides the figures, so that the table is keyed by its version; with another version only spills
and the number of registers are looked at. Beside the figures stands the hash of the text that they are of: a
kernel that has not changed needs no compiling to know what it costs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from memopt_ref.backends.cupy_gpu import (
    adafactor_bind,
    adafactor_engine,
    cubin,
    elementwise,
    nvrtc,
    prepare,
    sm3_bind,
)
from memopt_ref.backends.cupy_gpu.bind import Shape, bind
from memopt_ref.backends.cupy_gpu.engine import native_dtype, thumb
from memopt_ref.backends.cupy_gpu.kernel import Kernel
from memopt_ref.backends.cupy_gpu.sm3_engine import BLOCK, Tile
from memopt_ref.rules.adam import adam
from memopt_ref.rules.elementwise import Elementwise
from memopt_ref.rules.sgd import sgd
from tests.table import DTYPES, all_cases, dtype_of

ARCHS = (80, 90, 100)
TABLE = Path(__file__).with_name("gate.json")
#: Registers of a processor: those of a block's threads must fit.
REGISTERS = 65536
F32, F64, BF16 = dtype_of("float32"), dtype_of("float64"), dtype_of("bfloat16")


class _Like:
    def __init__(self, dtype) -> None:
        self.dtype = dtype


def default(dtype) -> Shape:
    return Shape(vec=thumb(_Like(dtype)))


def elementwise_kernels() -> Iterator[tuple[str, Kernel]]:
    """Each expression in each dtype; Adam's in each form and with each decay."""
    seen = set()
    for case in all_cases():
        if isinstance(case.rule, Elementwise) and elementwise.supports(case.rule, (3,), F32)[0]:
            slots = case.rule.slots((3,), F32)
            names = tuple(name for name in slots if not slots[name].is_counter)
            seen.add((case.rule.expression(slots.keys()), names))
    seen |= {(sm3_bind.sm3, ("least",)), (sm3_bind.sm3_mean, ("m", "least"))}
    for expression, names in sorted(seen, key=lambda x: x[0].__name__):
        for dtype in map(dtype_of, DTYPES):
            kernel = bind("packed", expression, names, "none", dtype, dtype, default(dtype))
            yield f"{kernel.name} {dtype}", kernel
    given = adam, ("m", "v")
    for decay in ("l2", "factor"):
        yield f"adam_packed float32 {decay}", bind("packed", *given, decay, F32, F32, default(F32))
    yield "adam_packed float32 of bfloat16", bind("packed", *given, "none", F32, BF16, default(F32))
    yield "adam_strided float32 listed", bind("strided", *given, "none", F32, F32, Shape(), listed=True)
    for dtype in map(dtype_of, DTYPES):
        for form in ("strided", "table"):
            kernel = bind(form, *given, "none", dtype, dtype, default(dtype))
            yield f"{kernel.name} {dtype}", kernel
    yield "sgd_table float32", bind("table", sgd, (), "none", F32, F32, default(F32))


def sm3_kernels() -> Iterator[tuple[str, Kernel]]:
    """The pass with and without momentum in each dtype, and the kernels around it."""
    tile = Tile()
    for mean in (False, True):
        for dtype in map(dtype_of, DTYPES):
            size = tile.block, min(tile.vec, 16 // native_dtype(dtype).itemsize)
            kernel = sm3_bind.matrix(mean, "none", dtype, dtype, *size, False)
            yield f"sm3{'_mean' if mean else ''} {dtype}", kernel
    yield "sm3 float32 listed", sm3_bind.matrix(False, "none", F32, F32, tile.block, tile.vec, True)
    for name in ("sm3_finish", "sm3_fold", "sm3_least"):
        for dtype in (F32, F64):
            yield f"{name} {dtype}", sm3_bind.small(name, dtype, BLOCK)


def adafactor_kernels() -> Iterator[tuple[str, Kernel]]:
    """The default's passes in each dtype, others in float32, and the kernels between them."""
    for dtype in map(dtype_of, DTYPES):
        options = dtype, dtype, adafactor_engine.BLOCK, 4
        yield f"adafactor_size {dtype}", adafactor_bind.size(False, *options)
        yield f"adafactor_squares {dtype}", adafactor_bind.squares(False, *options)
        yield f"adafactor_update {dtype}", adafactor_bind.update("rows", False, False, *options)
        yield f"adafactor_step {dtype}", adafactor_bind.step("rows", False, False, "none", *options)
    options = F32, F32, adafactor_engine.BLOCK, 4
    yield "adafactor_update float32 own", adafactor_bind.update("own", False, False, *options)
    yield "adafactor_step float32 own mean", adafactor_bind.step("own", False, False, "step", *options)
    yield "adafactor_squares float32 narrow", adafactor_bind.squares(False, *options[:3], 1)
    for name in ("leaves", "runs", "averages", "relative", "numbers"):
        for dtype in (F32, F64):
            yield f"adafactor_{name} {dtype}", adafactor_bind.small(name, dtype)


def prepare_kernels() -> Iterator[tuple[str, Kernel]]:
    """What is done to gradients before a step."""
    for dtype in map(dtype_of, DTYPES):
        native = native_dtype(dtype)
        wide = "double" if native == F64 else "float"
        yield f"prepare {dtype}", prepare.kernel("prepare", native, dtype, WIDE=wide)
        yield f"largest {dtype}", prepare.kernel("largest", native, dtype, EACH=prepare.EACH)
        yield f"row_sums {dtype}", prepare.kernel("row_sums", F64, dtype, SQUARED=1)
    yield "sum_rows float32", prepare.kernel("sum_rows", F32, F32)


def kernels() -> dict[str, Kernel]:
    """All kernels that are held against the table, by what the table calls them."""
    listed = [*elementwise_kernels(), *sm3_kernels(), *prepare_kernels(), *adafactor_kernels()]
    assert len(dict(listed)) == len(listed), "two kernels of one name"
    return dict(listed)


def measured(chosen: dict[str, Kernel], archs: Iterable[int] = ARCHS) -> dict[str, dict[str, list[int]]]:
    """Each kernel's :class:`~memopt_ref.backends.cupy_gpu.cubin.Cost` on each device; warnings are errors."""

    def one(item: tuple[str, Kernel, int]) -> list[int]:
        name, kernel, arch = item
        compiled = nvrtc.compiled(kernel, arch)
        complaints = cubin.complaints(compiled.log)
        assert not complaints, f"{name} for sm_{arch}: {complaints}"
        return list(cubin.cost(compiled, kernel.name))

    items = [(name, kernel, arch) for name, kernel in chosen.items() for arch in archs]
    found: dict[str, dict[str, list[int]]] = {name: {} for name in chosen}
    # NVRTC compiles while Python waits.
    with ThreadPoolExecutor(2) as pool:
        for (name, _, arch), cost in zip(items, pool.map(one, items), strict=True):
            found[name][str(arch)] = cost
    return found


def version() -> str:
    """The installed NVRTC's."""
    return ".".join(map(str, nvrtc.version()))


def read() -> dict[str, Any]:
    """The whole file."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {"costs": {}, "texts": {}}


def table() -> dict[str, dict[str, list[int]]] | None:
    """What is written for the installed NVRTC, or None."""
    found: dict[str, dict[str, list[int]]] | None = read()["costs"].get(version())
    return found


def changed(chosen: dict[str, Kernel], texts: dict[str, str]) -> list[str]:
    """The kernels whose text is not the one that the table is of, and those that are gone."""
    own = {name: kernel.digest[:16] for name, kernel in chosen.items()}
    return sorted(name for name in own.keys() | texts.keys() if own.get(name) != texts.get(name))


def faults(
    found: dict[str, dict[str, list[int]]],
    expected: dict[str, dict[str, list[int]]] | None,
    chosen: dict[str, Kernel],
) -> list[str]:
    """What is wrong with these costs: a spill, too many registers, or figures that are not the table's."""
    said = []
    for name, by_arch in found.items():
        for arch, numbers in by_arch.items():
            cost = cubin.Cost(*numbers)
            if cost.stack or cost.spill_stores or cost.spill_loads:
                said.append(f"{name} on sm_{arch} spills: {cost}")
            if cost.registers * int(chosen[name].definitions["BLOCK"]) > REGISTERS:
                said.append(f"{name} on sm_{arch} does not fit a processor: {cost}")
            if expected is not None and numbers != (was := expected.get(name, {}).get(arch)):
                said.append(f"{name} on sm_{arch}: {numbers}, the table says {was}")
    return said


def write(whole: bool = False) -> None:
    """Write the figures of the installed NVRTC into the table, of what has changed or of all."""
    chosen = kernels()
    known = read()["texts"].get(version(), {})
    names = set(chosen) if whole else set(changed(chosen, known)) & set(chosen)
    found = measured({name: chosen[name] for name in sorted(names)})
    # Read only now: the compiler has taken its time, and the table may have changed.
    written = read()
    written["columns"] = cubin.Cost._fields
    for part, own in (("costs", found), ("texts", {name: chosen[name].digest[:16] for name in names})):
        kept = {name: x for name, x in written[part].get(version(), {}).items() if name in chosen}
        written[part][version()] = kept | own
    text = json.dumps(written, indent=1, sort_keys=True)
    # One line a kernel and device.
    lines = text.splitlines()
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].rstrip().endswith(("[", ",")) and line.strip().rstrip(",").isdigit():
            joined[-1] += line.strip() if joined[-1].endswith("[") else f" {line.strip()}"
        elif joined and line.strip() in ("]", "],") and joined[-1][-1].isdigit():
            joined[-1] += line.strip()
        else:
            joined.append(line)
    TABLE.write_text("\n".join(joined) + "\n")


def main() -> int:
    if "--write" in sys.argv[1:]:
        write("all" in sys.argv[1:])
        return 0
    chosen = kernels()
    said = faults(measured(chosen), table(), chosen)
    print(*said or ["as the table says"], sep="\n")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
