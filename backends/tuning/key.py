"""What a measured choice holds for: everything that a kernel's speed depends on, sizes by powers of two.

A learning rate does not matter, whether there is weight decay does: a number counts as 0, as 1 or as any
other. Sizes fall in buckets, so that a model's hundred shapes are a handful of keys, and what is measured is
the middle of the bucket, whoever asked first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from memopt_ref.parts.schedule import Schedule
from memopt_ref.parts.slots import Slot
from memopt_ref.rules.base import Rule

from .where import HOST, Where

#: Bytes of parameter, gradient and state beyond which a step is a matter of the memory's speed alone, so that
#: a larger tensor shares the largest bucket; and no more than this is taken for measuring. On the host, and
#: on a device, whose caches are larger.
LARGEST, LARGEST_THERE = 2**26, 2**28
#: Hyper-parameters that change no kernel's speed.
IDLE = frozenset({"learning_rate", "seed"})


class Key(NamedTuple):
    """A rule's options, its slots, the tensor's dtype, layout and bucket; threads; who competes.

    On a device ``about`` says which one, and threads do not count.
    """

    rule: str
    slots: str
    dtype: str
    layout: str
    bucket: tuple[int, ...]
    threads: int
    candidates: str
    about: str = ""

    @property
    def text(self) -> str:
        """All of it in one line."""
        sizes = ", ".join(str(2**b // 2) for b in self.bucket)
        size = f"{self.dtype}[{sizes}] and up to twice that, {self.layout}"
        runs = self.about or f"{self.threads} threads"
        return f"{self.rule}; {self.slots}; {size}; {runs}; {self.candidates}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that is measured: the middle of the bucket."""
        return tuple(map(middle, self.bucket))


def file_of(text: str) -> str:
    """The name of the file of a key: its rule's name, and a hash of all of it.

    Examples
    --------
    >>> file_of("memopt_ref.rules.adam.Adam(beta1=any); m; float32[8]")
    'Adam-3c0d57f33b906358.json'
    """
    rule = re.sub(r"[^A-Za-z0-9]", "", text.partition("(")[0].rpartition(".")[2])[:40]
    return f"{rule}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def middle(bits: int) -> int:
    """A number of so many bits, half way to the next power of two.

    Examples
    --------
    >>> [middle(n.bit_length()) for n in (0, 1, 3, 64, 127, 128)]
    [0, 1, 3, 96, 96, 192]
    """
    return 3 << (bits - 2) if bits > 1 else bits


def layout_of(w: Any) -> str:
    """``"c"``, ``"fortran"`` or ``"strided"``: in one piece, the last or the first axis nearest, or not."""
    if w.flags.c_contiguous:
        return "c"
    return "fortran" if w.flags.f_contiguous else "strided"


def key_of(
    rule: Rule,
    shape: tuple[int, ...],
    dtype: Any,
    layout: str,
    names: Iterable[str],
    threads: int,
    where: Where = HOST,
) -> Key:
    """The key of a tensor.

    Parameters
    ----------
    rule : Rule
        As built, perhaps with schedules.
    shape, dtype
        The parameter's.
    layout : {"c", "fortran", "strided"}
    names : iterable of str
        Of the kernels that compete, the default first.
    threads : int
        How many may be used.
    where : Where
        The host, or a device.

    Examples
    --------
    >>> from memopt_ref.rules.adam import Adam
    >>> key = key_of(Adam(learning_rate=0.5), (300, 1000), np.dtype("float32"), "c", ["numpy_ref"], 2)
    >>> key.bucket, key.shape, key.slots
    ((19,), (393216,), 'm float32, v float32, t')
    """
    slots = rule.slots(shape, dtype)
    whole = all(slot.is_counter or slot.shape == shape for slot in slots.values())
    lengths = (prod(shape),) if whole and layout == "c" else shape
    told = ", ".join(_slot(name, slot, shape) for name, slot in slots.items())
    bucket = _within(rule, lengths, dtype, LARGEST if where is HOST else LARGEST_THERE)
    kind, count = np.dtype(dtype).name, 0 if where.about else threads
    return Key(_words(rule), told, kind, layout, bucket, count, ", ".join(names), where.about)


def _slot(name: str, slot: Slot, shape: tuple[int, ...]) -> str:
    if slot.is_counter:
        return name
    return f"{name} {slot.dtype}" + ("" if slot.shape == shape else f" of {len(slot.shape)} axes")


def _within(rule: Rule, lengths: tuple[int, ...], dtype: Any, largest: int) -> tuple[int, ...]:
    """Bits of each length, the longest cut until all arrays have no more than so many bytes."""
    bits = [n.bit_length() for n in lengths]
    while True:
        shape = tuple(map(middle, bits))
        nbytes = 2 * prod(shape) * np.dtype(dtype).itemsize
        nbytes += sum(slot.nbytes for slot in rule.slots(shape, dtype).values())
        if nbytes <= largest or max(bits, default=0) <= 1:
            return tuple(bits)
        bits[bits.index(max(bits))] -= 1


def _words(rule: Rule) -> str:
    kind = type(rule)
    options = [(f, getattr(rule, f.name)) for f in dataclasses.fields(rule) if f.name not in IDLE]
    told = ", ".join(f"{f.name}={_option(f.default, value)}" for f, value in options)
    return f"{kind.__module__}.{kind.__qualname__}({told})"


def _option(default: Any, value: Any) -> str:
    if isinstance(value, Schedule):
        return "any"
    if isinstance(value, float) or (isinstance(default, float) and type(value) is int):
        return f"{value:g}" if value in (0, 1) else "any"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return text if len(text) <= 60 else hashlib.sha256(text.encode()).hexdigest()[:16]
