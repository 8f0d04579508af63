"""One MicroAdam step of one tensor: which form of the kernel, which grid, which arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.rules.microadam import MicroAdam

from ..numba_cpu.admit import decay_of
from . import microadam_bind as bind
from .arrays import address, aligned, kept, namespace, overlap, place, zeros
from .device import Device
from .engine import native_dtype

#: Dynamic shared memory that a block of threads may have: what devices since compute capability 8.0 all lend.
MOST_SHARED = 96 << 10
#: Shorter tensors take the kernel of this length: few kernels serve all of a model's tensors.
SHORT = 4096
#: Runs of eight entries that a thread holds in registers at most.
MOST_RUNS = 4
#: Buckets that are whole runs of neighbouring lanes.
BUCKETS = (8, 16, 32, 64, 128, 256)
#: Entries of the window that a thread may hold.
SHARES = (1, 2, 4)
#: Top-K blocks in one launch for each of the device's processors, where they need memory of their own.
ROUND = 4
#: Threads of a processor that its registers are shared out to: 64 registers each of 32 bits.
THREADS = 1024


class Tile(NamedTuple):
    """How the kernel is launched: all that a tuner may change. It never changes a bit.

    ``block`` threads for a Top-K block, a power of two from 128 to 1024, and packs of at most ``vec`` entries
    of the gradient.
    """

    block: int = 256
    vec: int | None = None


DEFAULT = Tile()


class Job(NamedTuple):
    """What a step is made of: arrays in one piece by name, rule with numbers, the tensor's own step."""

    device: Device
    rule: MicroAdam
    arrays: dict[str, Any]
    t: int
    tile: Tile

    @property
    def native(self) -> Any:
        """What is computed with."""
        return native_dtype(self.arrays["w"].dtype)


def step(
    device: Device,
    rule: MicroAdam,
    w: Any,
    g: Any,
    state: Mapping[str, Any],
    t: int,
    tile: Tile = DEFAULT,
) -> None:
    """Step ``w`` and the slots in place.

    Parameters
    ----------
    device : Device
    rule : MicroAdam
        Admitted by :mod:`.microadam`, with numbers.
    w, g : array
        Parameter and dense gradient.
    state : mapping
        ``I`` and ``V``, perhaps ``e``, ``e_min`` and ``e_max``. Counters are not touched.
    t : int
        The tensor's own step, 1 at the first.
    tile : Tile, optional
        It never changes a bit.
    """
    if w.size == 0:
        return
    given = {"w": w, "g": g, **{name: x for name, x in state.items() if name != "t"}}
    if any(overlap(g, x) for name, x in given.items() if name != "g"):
        given["g"] = g.copy()
    with place(w):
        arrays = {name: namespace(x).ascontiguousarray(x) for name, x in given.items()}
        _launch(Job(device, rule, arrays, t, tile))
        # What was stepped as a copy.
        for name, x in given.items():
            if name != "g" and not overlap(x, arrays[name]):
                x[...] = arrays[name].reshape(x.shape)


def error_of(rule: MicroAdam) -> int:
    """How the error is kept, by the kernel's numbers."""
    if rule.error_bits is None:
        return bind.EXACT
    return bind.NO_ERROR if rule.error_bits == 0 else bind.PACKED if rule.error_bits <= 4 else bind.BYTES


def capacity_of(rule: MicroAdam, size: int) -> int:
    """Entries of the longest Top-K block that there is room for, in whole words of bits."""
    return -(-min(rule.block, max(size, SHORT)) // 32) * 32


def form_of(rule: MicroAdam, arrays: Mapping[str, Any], tile: Tile, dense: bool) -> bind.Form:
    """The kernel for these arrays: entries in registers where blocks and buckets let it."""
    w, g = arrays["w"], arrays["g"]
    capacity, error = capacity_of(rule, w.size), error_of(rule)
    decay = decay_of(rule, w)[0]
    block = tile.block
    while capacity > 8 * MOST_RUNS * block and block < THREADS:
        block *= 2
    runs = -(-capacity // (8 * block))
    itemsize = native_dtype(w.dtype).itemsize
    small = bind.shared_bytes(runs, False, capacity, itemsize) <= MOST_SHARED
    if (
        error != bind.PACKED
        or rule.bucket not in BUCKETS
        or address(arrays["e"]) % 4
        or runs > MOST_RUNS
        or not small
    ):
        block, runs = tile.block, 0
    scratch = not runs and bind.shared_bytes(0, False, capacity, itemsize) > MOST_SHARED
    entries = rule.window * rule.blocks(w.size).count(min(rule.block, capacity))
    return bind.Form(
        block=block,
        runs=runs,
        scratch=scratch,
        bucket=rule.bucket if runs else 0,
        vec=aligned([g, w] if decay == "l2" else [g], min(8, tile.vec or 16 // g.itemsize)) if runs else 1,
        error=error,
        value=rule.value_dtype,
        l2=decay == "l2",
        dense=dense,
        share=next((n for n in SHARES if n * block >= entries), SHARES[-1]),
        resident=max(1, 4 * THREADS // (block * itemsize)) if runs in (1, 2) else 1,
    )


def numbers_of(rule: MicroAdam, w: Any, t: int) -> tuple[dict[str, Any], Any]:
    """The kernel's numbers, and the powers of beta1 and beta2 in turn by age; rounded once."""
    native, beta1, beta2 = native_dtype(w.dtype), rule.beta1, rule.beta2
    given = {
        "rate": rule.learning_rate,
        "first": (1.0 - beta1) / (1.0 - beta1**t),
        "second": (1.0 - beta2) / (1.0 - beta2**t),
        "eps": rule.eps,
        "decay": decay_of(rule, w)[1],
    }
    powers = [beta**age for age in range(rule.window) for beta in (beta1, beta2)]
    with np.errstate(over="ignore", under="ignore"):
        numbers = {name: native.type(x) for name, x in given.items()}
        return numbers, np.array(powers, np.float64).astype(native)


def _launch(job: Job) -> None:
    device, rule, arrays, t, tile = job
    w = arrays["w"]
    numbers, powers = numbers_of(rule, w, t)
    # Beside numbers that are not finite even a step of an entry without a window is none.
    whole = decay_of(rule, w)[0] == "factor" or not np.isfinite([*numbers.values()]).all()
    form = form_of(rule, arrays, tile, whole)
    blocks, capacity = rule.blocks(w.size), capacity_of(rule, w.size)
    count = blocks.full + (blocks.tail > 0)
    at_once = min(count, ROUND * device.processors) if form.scratch else count
    error = [arrays["e"]] if form.error == bind.EXACT else []
    if form.error in (bind.BYTES, bind.PACKED):
        levels = job.native.type((1 << int(rule.error_bits or 0)) - 1)
        error = [arrays["e"], arrays["e_min"], arrays["e_max"], levels]
    room = [zeros(w, (at_once * capacity, 2), job.native)] if form.scratch else []
    arrays_and_powers = w, arrays["g"], arrays["I"], arrays["V"], *error, *room, kept(w, powers)
    sizes = (
        rule.block,
        rule.bucket,
        blocks.count(rule.block),
        blocks.count(blocks.tail),
        rule.window,
        min(t, rule.window),
        (t - 1) % rule.window,
        capacity,
    )
    kernel = bind.microadam(form, w.dtype, arrays["g"].dtype)
    shared = bind.shared_bytes(form.runs, form.scratch, capacity, job.native.itemsize)
    for first in range(0, count, at_once):
        args = (
            *arrays_and_powers,
            np.int64(w.size),
            np.int32(first),
            *(np.int32(n) for n in sizes),
            *numbers.values(),
        )
        device.launch(kernel, (min(at_once, count - first),), (form.block,), args, shared)
