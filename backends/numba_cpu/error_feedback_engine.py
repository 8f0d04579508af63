"""One step with a compressor by compiled loops: chunks, passes, threads. Loading this loads Numba."""

from __future__ import annotations

import functools
import warnings
from math import lcm
from typing import Any

import numpy as np

from memopt_ref.parts import sums
from memopt_ref.parts.compressors import OneBit, ScaledSign, TopK
from memopt_ref.parts.scalar import ratio
from memopt_ref.rules.error_feedback import ErrorFeedbackSGD
from memopt_ref.rules.topk_adam import TopKAdam

from . import error_feedback_drive as drive
from . import error_feedback_loops as loops
from . import runtime
from .admit import decay_of
from .bind import Form
from .engine import TASKS_A_THREAD, describe, fit
from .engine import kernel as expression_kernel
from .kinds import kind_of
from .microadam_engine import flattened

#: Entries of a chunk at least, and at most: it holds whole buckets of a quantised error, and whole blocks of
#: a compressor unless they are larger than this.
CHUNK, LARGE = 4096, 65536
_DECAYS = {"none": loops.NO_DECAY, "l2": loops.L2, "factor": loops.FACTOR}


def step(
    rule: Any,
    w: Any,
    g: Any,
    state: dict[str, Any],
    t: int,
    threads: int | None = None,
    tasks: int | None = None,
) -> bool:
    """Step ``w`` and the arrays of ``state`` in place; or return False, nothing done, where none can.

    Parameters
    ----------
    rule : ErrorFeedbackSGD, EF21 or TopKAdam
        Admitted by :mod:`.error_feedback`, with numbers.
    w, g : ndarray
        Parameter and dense gradient.
    state : mapping
        The slots; the counter ``t`` is not touched.
    t : int
        The tensor's own step, 1 at the first; 0 where the rule counts none.
    threads, tasks : int, optional
        Instead of the rule of thumb. They never change a bit.
    """
    native = np.dtype(np.float64) if w.dtype == np.float64 else np.dtype(np.float32)
    coded = {name: state[name] for name in ("e", "e_min", "e_max") if "e_min" in state}
    entrywise = [name for name in ("e", "d", "m", "v") if name in state and name not in coded]
    if fit(w, g, [state[name] for name in entrywise], native, None) is None or w.size == 0:
        return False
    slots = rule.as_built.slots(w.shape, w.dtype)
    for name, x in coded.items():
        if x.shape != slots[name].shape or x.dtype != slots[name].dtype or not x.flags.carray:
            return False
    if any(np.may_share_memory(g, x) for x in (w, *state.values()) if isinstance(x, np.ndarray)):
        g = g.copy()
    plan = _Plan(rule, w, native, bool(coded), state, t)
    if not plan.ready:
        return False
    places = {"e": loops.E, "d": loops.E, "m": loops.M, "v": loops.V}
    words = np.array([loops.W, loops.G, *(places[name] for name in entrywise)], np.int64)
    plan.run([w, g, *(state[name] for name in entrywise)], words, threads, tasks)
    return True


@functools.cache
def addresses(names: tuple[str, ...], wide: bool, kept: str) -> tuple[int, ...] | None:
    """The addresses of loops, compiled or loaded once a process; None if that fails."""
    try:
        drive.runner()
        return tuple(loops.loop(getattr(loops, name), wide, kept) for name in names)
    except Exception as error:
        what = f"error feedback's loops cannot be compiled, NumPy steps instead ({error})"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=2)
        return None


class _Plan:
    """The passes of one step: table, numbers, and how the tensor is cut."""

    def __init__(self, rule: Any, w: Any, native: Any, coded: bool, state: dict[str, Any], t: int) -> None:
        self.rule, self.native, self.size = rule, native, w.size
        self.wide = native == np.float64
        self.columns = w.shape[-1] if w.ndim > 1 else 1
        decay, number = decay_of(rule, w)
        self.numbers = np.array([rule.learning_rate, number, 0.0], native)
        self.table = np.zeros(loops.WORDS, np.int64)
        self.table[loops.FORM] = self._form(state)
        self.table[loops.DECAY], self.table[loops.SIZE] = _DECAYS[decay], w.size
        self.kept = "float32"
        self.alive: list[Any] = []
        whole = 1
        if coded:
            bounds = state["e_min"]
            self.kept = "uint16" if bounds.dtype.kind != "f" else str(bounds.dtype)
            for word, name in ((loops.CODES, "e"), (loops.LOW, "e_min"), (loops.HIGH, "e_max")):
                self.table[word] = state[name].ctypes.data
            self.table[loops.BITS], self.table[loops.BUCKET] = rule.error_bits, rule.bucket
            whole = lcm(rule.bucket, 2)
        block = min(getattr(rule.compressor, "block", None) or w.size, w.size)
        self.large = block > LARGE or isinstance(rule.compressor, OneBit)
        self.block = block
        unit = lcm(whole, loops.LEAF if self.large else block)
        self.chunk = unit * -(-CHUNK // unit)
        # Blocks and buckets that begin together only in much larger steps are left to the reference.
        aligned = not self.large or block == w.size or block % whole == 0
        if self.chunk >= w.size and not self.large:
            self.chunk = w.size
        self.ready = aligned and self.chunk <= 2 * LARGE and self._adam(rule, t)
        self.table[loops.BLOCK], self.table[loops.CHUNK] = block, self.chunk
        self.enter: tuple[str, ...] = ("enter", "decode") if coded else ("enter",)
        self.leave: tuple[str, ...] = ("leave", "encode") if coded else ("leave",)
        names = (*self.enter, *self.leave, *self._names())
        found = addresses(names, self.wide, self.kept) if self.ready else None
        self.ready = found is not None
        self.loops = dict(zip(names, found or (), strict=False))

    def _form(self, state: dict[str, Any]) -> int:
        if isinstance(self.rule, TopKAdam):
            return loops.SUM if "e" in state else loops.ALONE
        if not isinstance(self.rule, ErrorFeedbackSGD):
            return loops.DIFFERENCE
        if "e" not in state:
            return loops.NO_ERROR
        return loops.CODED_ERROR if "e_min" in state else loops.KEPT_ERROR

    def _names(self) -> tuple[str, ...]:
        compressor = self.rule.compressor
        if isinstance(compressor, TopK):
            return ("count_digits", "count_ties", "keep_from") if self.large else ("keep_largest",)
        if isinstance(compressor, ScaledSign):
            return ("sum_leaves", "scale_signs")
        return ("sum_sides", "take_sides") if isinstance(compressor, OneBit) else ("copy",)

    def _adam(self, rule: Any, t: int) -> bool:
        if not isinstance(rule, TopKAdam):
            return True
        adam = rule.adam
        found = expression_kernel(adam.expression(("m", "v", "t")), ("m", "v"), Form(), self.native)
        if found is None:
            return False
        given = adam.coefficients(t)
        numbers = np.array([*(given[name] for name in found.coefficients), 0.0], np.float64)
        self.alive.append(numbers)
        self.table[loops.ADAM], self.table[loops.ADAM_NUMBERS] = found.address, numbers.ctypes.data
        return True

    def run(self, arrays: list[Any], words: Any, threads: int | None, tasks: int | None) -> None:
        """All passes; those that only read come first."""
        own = kind_of(self.native)
        assert own is not None
        shape, steps = flattened(arrays)
        described = []
        for k, (x, strides) in enumerate(zip(arrays, steps, strict=True)):
            whole = x.dtype == self.native and (x.flags.c_contiguous or x.size == 1)
            row = describe(x, k, own, strides, in_place=whole)
            described.append((*row[:2], int(whole), *row[3:]))
        kept = np.array(described, np.int64), words, np.array(shape, np.int64)
        self.alive.append(kept)
        for word, array in zip((loops.ARRAYS, loops.NAMES, loops.SHAPE), kept, strict=True):
            self.table[word] = array.ctypes.data
        self.table[loops.COUNT], self.table[loops.RANK] = len(arrays), len(shape)
        self.table[loops.ITEM] = self.native.itemsize
        self.threads = runtime.threads(self.size, threads)
        self.tasks = TASKS_A_THREAD * self.threads if tasks is None else tasks
        compressor = self.rule.compressor
        if isinstance(compressor, OneBit):
            self._one_bit()
        elif isinstance(compressor, ScaledSign):
            self._scaled_sign()
        elif isinstance(compressor, TopK):
            self._top_k(compressor)
        else:
            self._finish("copy")

    def _finish(self, compress: str, first: int = 0, last: int | None = None) -> None:
        """Make C(x) and step."""
        self._pass((*self.enter, compress, *self.leave), True, first, last, None, 1)

    def _read(
        self, loop: str, first: int = 0, last: int | None = None, unit: int | None = None, counts: int = 1
    ) -> Any:
        """Look at x; what was counted, a row for each task."""
        return self._pass((*self.enter, loop), False, first, last, unit, counts)

    def _pass(
        self,
        names: tuple[str, ...],
        writes: bool,
        first: int,
        last: int | None,
        unit: int | None,
        counts: int,
    ) -> Any:
        """Take loops over the entries ``first`` to ``last``, cut in multiples of ``unit``."""
        last, unit = self.size if last is None else min(last, self.size), unit or self.chunk
        units = -(-(last - first) // unit)
        tasks = max(1, min(self.tasks, units))
        edges = np.array([min(last, first + k * units // tasks * unit) for k in range(tasks + 1)], np.int64)
        counted, chosen = np.zeros((tasks, counts), np.int64), [self.loops[name] for name in names]
        listed = np.array(chosen, np.int64)
        self.table[loops.LOOPS], self.table[loops.MANY] = listed.ctypes.data, len(listed)
        self.table[loops.WRITES] = writes
        numbers, here, apart = self.numbers.ctypes.data, counted.ctypes.data, counted.strides[0]
        arguments = (int(drive.runner().address), self.table, numbers, edges, here, apart)
        if self.threads > 1 and tasks > 1:
            runtime.launch(drive.parallel, arguments, min(self.threads, tasks))
        else:
            drive.serial(*arguments)
        return counted

    def _top_k(self, compressor: TopK) -> None:
        blocks = compressor.blocks(self.size)
        if not self.large:
            self.table[loops.KEPT], self.table[loops.KEPT_LAST] = (
                blocks.count(n) for n in (self.block, blocks.tail)
            )
            self._finish("keep_largest")
            return
        for first in range(0, self.size, self.block):
            last = min(self.size, first + self.block)
            self.table[loops.BASE] = first
            ties = self._least_kept(first, last, blocks.count(last - first))
            self._finish("keep_from", first, last)
            self.table[loops.TIES] = 0
            del ties  # until here the loops knew its address

    def _least_kept(self, first: int, last: int, kept: int) -> Any:
        """Find the least magnitude kept, digit by digit from the top.

        If not all that are equal to it are kept, returns how many of them each chunk keeps: the first ones.
        """
        shift, prefix, beat = 8 * self.native.itemsize - 1, 0, 0
        while shift > 0:
            width = min(loops.DIGIT, shift)
            shift -= width
            # A last, shorter digit is looked at together with the end of the one before.
            overlap = loops.DIGIT - width
            self.table[loops.SHIFT], self.table[loops.PREFIX] = shift, prefix >> overlap
            counted = self._read("count_digits", first, last, counts=1 << loops.DIGIT)
            base = (prefix & ((1 << overlap) - 1)) << width
            counts = counted.sum(axis=0)[base : base + (1 << width)]
            above = counts[::-1].cumsum()
            down = int(np.searchsorted(above, kept - beat))
            digit = (1 << width) - 1 - down
            beat += int(above[down - 1]) if down else 0
            prefix = prefix << width | digit
            if beat + counts[digit] == kept:
                self.table[loops.LEAST] = prefix << shift
                return None
        self.table[loops.LEAST] = prefix
        ties = np.zeros(-(-(last - first) // self.chunk), np.int64)
        self.table[loops.TIES] = ties.ctypes.data
        self._read("count_ties", first, last)
        ties[...] = np.clip(kept - beat - (ties.cumsum() - ties), 0, ties)
        return ties

    def _scaled_sign(self) -> None:
        apart = -(-self.block // loops.LEAF)
        full, tail = divmod(self.size, self.block)
        leaves = np.empty(full * apart + -(-tail // loops.LEAF), self.native)
        scales = np.empty(full + (tail > 0), self.native)
        self.table[loops.SCALES] = scales.ctypes.data
        # A leaf begins with its block, and so must the chunks; those of small blocks do.
        for first in range(0, self.size, self.block if self.large else self.size):
            self.table[loops.BASE] = first
            self.table[loops.LEAVES] = leaves[first // self.block * apart :].ctypes.data
            self._read("sum_leaves", first, first + self.block if self.large else None)
        self.table[loops.BASE] = 0
        with np.errstate(all="ignore"):
            for here, length, part in (
                (scales[:full], self.block, leaves[: full * apart].reshape(full, apart)),
                (scales[full:], tail, leaves[full * apart :].reshape(int(tail > 0), -(-tail // loops.LEAF))),
            ):
                if len(here):
                    while part.shape[-1] > 1:
                        part = sums.leaf_sums(part)
                    here[...] = part[:, 0] / self.native.type(length)
        self._finish("scale_signs")

    def _one_bit(self) -> None:
        rows, columns = self.size // self.columns, self.columns
        runs = -(-rows // loops.RUN)
        sides = np.zeros((2, runs, columns), self.native)
        self.table[loops.COLUMNS] = columns
        self.table[loops.ABOVE], self.table[loops.BELOW] = (side.ctypes.data for side in sides)
        unit = loops.RUN * columns
        # A run of rows belongs to one task; buckets that do not end with runs leave all to one.
        if self.table[loops.BITS] and unit % lcm(self.rule.bucket, 2):
            unit = self.size
        negative = self._read("sum_sides", unit=unit, counts=columns).sum(axis=0)
        means = []
        with np.errstate(all="ignore"):
            for side, members in zip(sides, (rows - negative, negative), strict=True):
                total = side[0] if runs == 1 else sums.down_columns(side)
                means.append(np.ascontiguousarray(ratio(total, members.astype(self.native))))
        self.table[loops.ABOVE], self.table[loops.BELOW] = (mean.ctypes.data for mean in means)
        self._finish("take_sides")
