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

import numpy as np

from memopt_ref.backends.cupy_gpu import (
    adafactor_bind,
    adafactor_engine,
    count_sketch_bind,
    count_sketch_rows,
    cubin,
    elementwise,
    error_feedback_engine,
    folds,
    low_rank_bind,
    low_rank_engine,
    microadam_bind,
    microadam_engine,
    nvrtc,
    passes,
    prepare,
    row_wise_bind,
    row_wise_engine,
    sm3_bind,
)
from memopt_ref.backends.cupy_gpu import error_feedback_bind as feedback_bind
from memopt_ref.backends.cupy_gpu.bind import Shape, bind
from memopt_ref.backends.cupy_gpu.count_sketch_bind import Form, Table
from memopt_ref.backends.cupy_gpu.engine import native_dtype, thumb
from memopt_ref.backends.cupy_gpu.kernel import Kernel
from memopt_ref.backends.cupy_gpu.sm3_engine import BLOCK, Tile
from memopt_ref.backends.numba_cpu.admit import decay_of
from memopt_ref.rules.adam import adam
from memopt_ref.rules.elementwise import Elementwise
from memopt_ref.rules.microadam import MicroAdam
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
    for name in ("factor_averages", "factor_ratios", "adafactor_numbers"):
        for dtype in (F32, F64):
            yield f"{name} {dtype}", adafactor_bind.small(name, dtype)


def row_wise_kernels() -> Iterator[tuple[str, Kernel]]:
    """Short rows in each dtype, the passes over others, and what settles their numbers."""
    block = row_wise_engine.BLOCK
    for dtype in map(dtype_of, DTYPES):
        options = dtype, dtype, block, 4
        yield f"row_wise_rows {dtype}", row_wise_bind.rows("none", False, *options)
        yield f"row_wise_squares {dtype}", row_wise_bind.squares(False, *options)
        yield f"row_wise_step {dtype}", row_wise_bind.step("none", True, *options)
    options = F32, F32, block
    yield "row_wise_rows float32 l2 listed", row_wise_bind.rows("l2", True, *options, 4)
    yield "row_wise_rows float32 narrow", row_wise_bind.rows("none", False, *options, 1)
    yield "row_wise_step float32 of a tensor", row_wise_bind.step("factor", False, *options, 4)
    for dtype in (F32, F64):
        yield f"row_wise_settle {dtype}", row_wise_bind.settle(dtype, block)


def error_feedback_kernels() -> Iterator[tuple[str, Kernel]]:
    """Argument and step in each dtype, other compressors and rules in float32, and what is between them."""
    block, wide = error_feedback_engine.BLOCK, (("float32", F32), ("float64", F64))
    for dtype in map(dtype_of, DTYPES):
        options = dtype, dtype, block, 4
        argument = feedback_bind.argument("descent", False)
        yield f"feedback_argument {dtype}", passes.one(argument, *options)
        step = feedback_bind.step("top-k", "descent", True, "none")
        yield f"feedback_step {dtype}", passes.one(step, *options)
    for compressor, rule, decay in (
        ("top-k", "adam", "factor"),
        ("sign", "ef21", "l2"),
        ("one-bit", "descent", "none"),
    ):
        step = feedback_bind.step(compressor, rule, rule != "ef21", decay)
        yield f"feedback_step float32 {compressor} {rule}", passes.one(step, F32, F32, block, 4)
    narrow = passes.one(feedback_bind.step("top-k", "adam", True, "factor"), F32, F32, block, 1)
    yield "feedback_step float32 narrow", narrow
    for name, dtype in wide:
        yield f"feedback_magnitudes {name}", passes.one(feedback_bind.MAGNITUDES, dtype, dtype, block, 4)
        for part in ("block", "digits", "narrow", "ties", "last"):
            yield f"top_k_{part} {name}", feedback_bind.top_k(part, dtype)
        for part in ("sides", "means"):
            yield f"feedback_{part} {name}", feedback_bind.small(part, dtype, dtype)
        for part, sizes in (("decode", {}), ("bounds", {}), ("encode", {"STOCHASTIC": 0})):
            yield f"feedback_{part} {name}", feedback_bind.small(part, dtype, BF16, **sizes)
    yield "feedback_encode float32 random", feedback_bind.small("encode", F32, BF16, STOCHASTIC=1)


def low_rank_kernels() -> Iterator[tuple[str, Kernel]]:
    """Sums and step in each dtype, and what is between them."""
    for dtype in map(dtype_of, DTYPES):
        options = dtype, dtype, low_rank_engine.BLOCK, 4
        yield f"low_rank_squares {dtype}", low_rank_bind.squares(False, *options)
        yield f"low_rank_step {dtype}", low_rank_bind.step(True, "none", *options)
    options = F32, F32, low_rank_engine.BLOCK, 1
    yield "low_rank_step float32 narrow", low_rank_bind.step(False, "factor", *options)
    for name in ("factor_averages", "factor_ratios"):
        for dtype in (F32, F64):
            yield f"{name} {dtype} low rank", low_rank_bind.small(name, dtype)


def fold_kernels() -> Iterator[tuple[str, Kernel]]:
    """What brings sums of leaves and of runs to one number."""
    for name in ("fold_leaves", "fold_runs"):
        for dtype in (F32, F64):
            yield f"{name} {dtype}", passes.fold(name, dtype, folds.BLOCK)


def count_sketch_kernels() -> Iterator[tuple[str, Kernel]]:
    """Adam's in each dtype, those of other options in float32, and the kernels around them."""
    binds, tables = count_sketch_bind, (Table("m", "asked"), Table("v", "asked", "min"))
    m = Form(3, "median", False, binds.by_mean, False, False, False)
    v = m._replace(combine="min", squares=True)
    shape = count_sketch_rows.DEFAULT
    for dtype in map(dtype_of, DTYPES):
        size = shape.block, min(shape.vec, 16 // native_dtype(dtype).itemsize)
        for name, form in (("m", m), ("v", v)):
            kernel = binds.of_moment("increments", form, dtype, dtype, *size, False)
            yield f"count_sketch_increments {dtype} {name}", kernel
        kernel = binds.step(binds.adam, tables, 3, "none", dtype, dtype, *size)
        yield f"count_sketch_step {dtype}", kernel
        yield f"count_sketch_active {dtype}", binds.of_moment("active", v, dtype, dtype, size[0], 1, False)
    of, size = (F32, F32), (shape.block, shape.vec)
    for dtype in (F32, F64):
        own = shape.block, 16 // dtype.itemsize
        for scan in (False, True):
            kernel = binds.of_moment("scatter", m, dtype, dtype, *own, False, scan)
            yield f"count_sketch_scatter {dtype}{' scan' if scan else ''}", kernel
        yield f"count_sketch_scale {dtype}", binds.small("scale", dtype, count_sketch_rows.BLOCK)
    yield "count_sketch_rest float32", binds.small("rest", F32, count_sketch_rows.BLOCK)
    yield "count_sketch_locate", binds.of_moment("locate", m, *of, count_sketch_rows.BLOCK, 1, False)
    for name, form in (
        ("global", v._replace(delta=None)),
        ("by row", m._replace(by_row=True)),
        ("by row scan", m._replace(by_row=True)),
    ):
        kernel = binds.of_moment("scatter", form, *of, *size, True, name.endswith("scan"))
        yield f"count_sketch_scatter float32 l2 {name}", kernel
    walk = count_sketch_rows.WALK
    for name, form in (
        ("sequential", m._replace(sequential=True)),
        ("conservative", v._replace(delta=None, conservative=True)),
    ):
        yield f"count_sketch_walk float32 {name}", binds.of_moment("walk", form, *of, walk, 1, False)
    deep = m._replace(depth=5)
    yield "count_sketch_increments float32 five", binds.of_moment("increments", deep, *of, *size, True)
    yield "count_sketch_step float32 five", binds.step(binds.adam, tables, 5, "factor", *of, *size)
    slot = (Table("m", "slot"), tables[1])
    yield "count_sketch_step float32 dense m", binds.step(binds.adam_dense, slot, 3, "l2", *of, *size)


def microadam_kernels() -> Iterator[tuple[str, Kernel]]:
    """The default in each dtype and each block of threads; decays; what does not stay in registers."""

    def aligned(dtype, size: int) -> Any:
        room = np.zeros(256, np.uint8)
        first = room[-room.ctypes.data % 64 :][:64].view(dtype)
        return np.lib.stride_tricks.as_strided(first, (size,), (0,))

    def kernel(rule: MicroAdam, dtype, size: int = 8192, block: int = 256) -> Kernel:
        arrays = {"w": aligned(dtype, size), "g": aligned(dtype, size), "e": aligned(np.uint8, size // 2)}
        dense = decay_of(rule, arrays["w"])[0] == "factor"
        form = microadam_engine.form_of(rule, arrays, microadam_engine.Tile(block), dense)
        return microadam_bind.microadam(form, dtype, dtype)

    for dtype in map(dtype_of, DTYPES):
        yield f"microadam {dtype}", kernel(MicroAdam(), dtype)
        yield f"microadam {dtype} memory", kernel(MicroAdam(bucket=80, block=640), dtype)
    for block in (128, 512):
        yield f"microadam float32 of {block}", kernel(MicroAdam(), F32, block=block)
    for mode in ("decoupled", "l2"):
        yield f"microadam float32 {mode}", kernel(MicroAdam(weight_decay=0.1, weight_decay_mode=mode), F32)
    yield "microadam float32 exact", kernel(MicroAdam(error_bits=None), F32)
    yield "microadam float32 far", kernel(MicroAdam(block=32768), F32, 65536)


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
    listed = [
        *elementwise_kernels(),
        *sm3_kernels(),
        *prepare_kernels(),
        *adafactor_kernels(),
        *fold_kernels(),
        *row_wise_kernels(),
        *error_feedback_kernels(),
        *low_rank_kernels(),
        *count_sketch_kernels(),
        *microadam_kernels(),
    ]
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
