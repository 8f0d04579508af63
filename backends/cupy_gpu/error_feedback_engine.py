"""One step with a compressor: the argument x, what the compressor has to know of it, then C(x) and the step.

    argument   G, e             x = e + lr g in the place of e; or g - d, e + g in arrays of their own
    ...        x                Top-K: least magnitude kept and last tie; scaled signs: sums; one bit: means
    step       x, W, slots      C(x), the step, and what C(x) leaves behind in the place of x

A quantised error is decoded before and encoded after. No launch waits for the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.compressors import OneBit, ScaledSign, TopK
from memopt_ref.parts.random import splitmix64
from memopt_ref.parts.sums import LEAF, RUN
from memopt_ref.rules.error_feedback import EF21, ErrorFeedbackSGD

from ..numba_cpu.admit import decay_of
from . import error_feedback_bind as bind
from . import folds, passes
from .arrays import namespace, overlap, place, zeros
from .device import Device
from .engine import native_dtype

#: Threads of a block of the passes; entries of a block of Top-K above which many thread blocks search it.
BLOCK, LARGE = 256, 1 << 16
#: Entries of a large block that one thread block counts, and rows of a launch at most.
TILE, MOST_ROWS = 1 << 14, 1 << 30
#: Bits of a magnitude that one search looks at, as in ``top_k.cuh``.
DIGIT = 11


class Job(NamedTuple):
    """What the launches of one step share: flat arrays by name, in one piece, and the step's numbers."""

    device: Device
    rule: Any
    arrays: dict[str, Any]
    decay: str
    numbers: dict[str, Any]
    native: Any
    block: int
    large: int
    columns: int

    @property
    def size(self) -> int:
        """Entries of the tensor."""
        return int(self.arrays["w"].size)

    @property
    def image(self) -> Any:
        """The dtype of magnitudes' images."""
        return np.dtype(f"u{self.native.itemsize}")

    def room(self, shape: Any, dtype: Any = None) -> Any:
        """Memory for numbers of the compute dtype, or of another."""
        return folds.room(self.arrays["w"], shape, dtype or self.native)

    def small(self, part: str, threads: int, args: tuple[Any, ...], kept: Any = None, **sizes: int) -> None:
        """A launch of ``feedback_*.cu`` with so many threads."""
        kernel = bind.small(part, self.native, kept or self.native, **sizes)
        self.device.launch(kernel, (-(-threads // bind.BLOCK),), (bind.BLOCK,), args)

    def search(self, part: str, blocks: int, args: tuple[Any, ...]) -> None:
        """A launch of ``top_k_*.cu`` with so many blocks."""
        self.device.launch(bind.top_k(part, self.native), (blocks,), (bind.BLOCK,), args)


class Part(NamedTuple):
    """Rows of equal length, from an entry on: the blocks of a compressor, or its shorter last one."""

    first: int
    rows: int
    columns: int

    def of(self, x: Any) -> Any:
        """Its entries of an array."""
        return x[self.first : self.first + self.rows * self.columns]


def step(
    device: Device,
    rule: Any,
    w: Any,
    g: Any,
    state: dict[str, Any],
    t: int,
    block: int = BLOCK,
    large: int = LARGE,
) -> None:
    """Step ``w`` and the arrays of ``state`` in place.

    Parameters
    ----------
    device : Device
    rule : ErrorFeedbackSGD, EF21 or TopKAdam
        Admitted by :mod:`.error_feedback`, with numbers.
    w, g : array
        Parameter and dense gradient.
    state : mapping
        The slots; counters are not touched.
    t : int
        The tensor's own step, 1 at the first; 0 where the rule counts none.
    block, large : int, optional
        Threads of a block of the passes, and entries of a large block. They never change a bit.
    """
    if w.size == 0:
        return
    given = {"w": w, "g": g, **{name: x for name, x in state.items() if name not in ("t", "seed")}}
    if any(overlap(g, x) for name, x in given.items() if name != "g"):
        given["g"] = g.copy()
    native = native_dtype(w.dtype)
    decay, number = decay_of(rule, w)
    known = {"decay": number, "learning_rate": rule.learning_rate}
    if not isinstance(rule, ErrorFeedbackSGD | EF21):
        known |= rule.adam.coefficients(t)
    numbers = {name: native.type(value) for name, value in known.items()}
    with place(w):
        arrays = {name: namespace(x).ascontiguousarray(x).reshape(-1) for name, x in given.items()}
        columns = w.shape[-1] if w.ndim > 1 else 1
        job = Job(device, rule, arrays, decay, numbers, native, block, large, columns)
        x, keeps = _argument(job)
        for part, compressor, found in _parts(job, x):
            _step(job, part, compressor, {"x": x, **found}, keeps)
        if "e_min" in arrays:
            _encode(job, x, int(state.get("seed", 0)), t)
        # What was stepped as a copy.
        for name, to in given.items():
            if name != "g" and not overlap(to, arrays[name]):
                to[...] = arrays[name].reshape(to.shape)


def _argument(job: Job) -> tuple[Any, bool]:
    """The array x, and whether what C(x) leaves behind takes its place."""
    rule, arrays = job.rule, job.arrays
    l2, exact = job.decay == "l2", "e" in arrays and "e_min" not in arrays
    if isinstance(rule, ErrorFeedbackSGD):
        form = "descent" if "e" in arrays else "alone"
    else:
        form = "difference" if isinstance(rule, EF21) else "sum" if exact else "gradient"
    if form == "gradient" and not l2 and arrays["g"].dtype == job.native:
        return arrays["g"], False
    x = arrays["e"] if exact else job.room(job.size)
    if "e_min" in arrays:
        _decode(job, x)
    _pass(job, bind.argument(form, l2), Part(0, 1, job.size), {"x": x}, bind.NUMBERS[:2])
    return x, "e" in arrays


def _pass(job: Job, todo: Any, part: Part, more: dict[str, Any], numbers: tuple[str, ...]) -> None:
    by_entry = [part.of({**job.arrays, **more}[x]) for x in todo.by_entry if x not in todo.by_column]
    given = dict(zip([x for x in todo.by_entry if x not in todo.by_column], by_entry, strict=True))
    packed = [*by_entry, *(more[x] for x in todo.by_column)]
    vec = passes.pack(part.columns, packed)
    kernel = passes.one(todo, job.arrays["w"].dtype, job.arrays["g"].dtype, job.block, vec)
    leaves = -(-part.columns // LEAF)
    sizes = (np.int64(n) for n in (part.rows, part.columns, leaves, part.rows))
    known = {**job.numbers, "length": job.native.type(part.columns)}
    sums = [more["sums"]] if todo.summed else []
    args = (*(given[x] if x in given else more[x] for x in todo.arrays), *sums, *sizes)
    grid = -(-32 * part.rows * leaves // job.block)
    job.device.launch(kernel, (grid,), (job.block,), (*args, *(known[x] for x in numbers)))


def _step(job: Job, part: Part, compressor: str, more: dict[str, Any], keeps: bool) -> None:
    rule = "descent" if isinstance(job.rule, ErrorFeedbackSGD) else "ef21"
    todo = bind.step(compressor, rule if "m" not in job.arrays else "adam", keeps, job.decay)
    _pass(job, todo, part, more, todo.numbers)


def _parts(job: Job, x: Any) -> Iterator[tuple[Part, str, dict[str, Any]]]:
    """The rows that C is made of, what it is called there, and what it has to know."""
    compressor = job.rule.compressor
    if isinstance(compressor, OneBit):
        part = Part(0, job.size // job.columns, job.columns)
        yield part, "one-bit", _sides(job, x, part)
        return
    if not isinstance(compressor, TopK | ScaledSign):
        yield Part(0, 1, job.size), "identity", {}
        return
    length = min(compressor.block or job.size, job.size)
    full, tail = divmod(job.size, length)
    parts = [
        Part(first * length, min(MOST_ROWS, full - first), length) for first in range(0, full, MOST_ROWS)
    ]
    for part in [*parts, *([Part(full * length, 1, tail)] if tail else [])]:
        if isinstance(compressor, ScaledSign):
            yield part, "sign", {"total": _totals(job, x, part)}
        elif (kept := compressor.blocks(job.size).count(part.columns)) == part.columns:
            yield part, "identity", {}
        else:
            yield part, "top-k", _least_kept(job, part, part.of(x), kept)


def _least_kept(job: Job, part: Part, x: Any, kept: int) -> dict[str, Any]:
    """The least magnitude that each row keeps, and where in the part the last of it lies that is kept."""
    rows, columns = np.int64(part.rows), np.int64(part.columns)
    last = job.room(part.rows, np.int64)
    if columns <= job.large:
        least = job.room(part.rows, job.image)
        job.search("block", part.rows, (x, least, last, columns, np.uint64(kept)))
        return {"least": least, "last": last}
    tiles = -(-part.columns // TILE)
    cut = columns, np.int64(tiles), np.int64(TILE)
    least, bins = zeros(x, part.rows, job.image), zeros(x, int(rows) << DIGIT, np.uint64)
    wanted, left = zeros(x, part.rows, np.uint64), 8 * job.native.itemsize - 1
    wanted[...] = kept
    while left:
        width = min(DIGIT, left)
        left -= width
        job.search("digits", part.rows * tiles, (x, least, bins, *cut, np.int32(left), np.int32(width)))
        job.search("narrow", part.rows, (bins, least, wanted, np.int32(width)))
    ties = job.room(part.rows * tiles, np.uint64)
    job.search("ties", part.rows * tiles, (x, least, ties, *cut))
    job.search("last", part.rows, (x, least, wanted, ties, last, *cut))
    return {"least": least, "last": last}


def _totals(job: Job, x: Any, part: Part) -> Any:
    """The sums of magnitudes of each row."""
    sums = job.room((part.rows, -(-part.columns // LEAF)))
    _pass(job, bind.MAGNITUDES, part, {"x": x, "sums": sums}, ())
    return folds.leaves(job.device, sums)


def _sides(job: Job, x: Any, part: Part) -> dict[str, Any]:
    """The means of each column's entries on either side of 0."""
    strips = -(-part.rows // RUN)
    sides, members = job.room((2, strips, part.columns)), zeros(x, part.columns, np.uint64)
    rows, columns = np.int64(part.rows), np.int64(part.columns)
    threads = strips * part.columns
    job.small("sides", threads, (x, sides, members, rows, columns, np.int64(strips)))
    sides = folds.runs(job.device, sides)
    job.small("means", part.columns, (sides, members, rows, columns))
    above, below = sides.reshape(2, part.columns)
    return {"above": above, "below": below}


def _decode(job: Job, x: Any) -> None:
    """The quantised error as numbers."""
    codes, low, high = (job.arrays[name] for name in ("e", "e_min", "e_max"))
    args = codes, low, high, x, np.int64(job.size), np.int64(job.rule.bucket), *_coded(job)
    job.small("decode", job.size, args, low.dtype)


def _encode(job: Job, x: Any, seed: int, t: int) -> None:
    """The numbers of x as the quantised error."""
    codes, low, high = (job.arrays[name] for name in ("e", "e_min", "e_max"))
    count, bucket = np.int64(job.size), np.int64(job.rule.bucket)
    job.small("bounds", 32 * low.size, (x, low, high, count, bucket, np.int64(low.size)), low.dtype)
    random = job.rule.error.is_random
    stream = splitmix64(splitmix64(np.uint64(seed)) ^ np.uint64(t)) if random else 0
    args = x, low, high, codes, count, bucket, *_coded(job), np.uint64(stream)
    job.small("encode", codes.size, args, low.dtype, STOCHASTIC=int(random))


def _coded(job: Job) -> tuple[Any, Any]:
    """Whether two codes share a byte, and the largest code."""
    bits = job.rule.error_bits
    return np.int32(bits <= 4), job.native.type((1 << bits) - 1)
