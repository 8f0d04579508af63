"""How a rule keeps what a compressor left behind: exactly, quantised, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from .quantize import DTYPES, Quantiser, pack, unpack
from .slots import Slot, counter, like_parameter, seed_slot, zeros_like


@dataclasses.dataclass(frozen=True)
class ErrorBuffer:
    """The slots of an error vector, and how to read and write them.

    Parameters
    ----------
    bits : int or None
        None: slot ``e`` is the error itself in the compute dtype. 1 to 8: ``e`` holds codes (up to 4 bits
        two a byte), ``e_min`` and ``e_max`` the bounds of each bucket (the paper's delta and Delta). 0:
        nothing is kept.
    bucket, rounding, bounds_dtype
        See :class:`~memopt_ref.parts.quantize.Quantiser`.

    Examples
    --------
    >>> sorted(ErrorBuffer(4, 64).slots((100,), np.float32))
    ['e', 'e_max', 'e_min']
    >>> sum(slot.nbytes for slot in ErrorBuffer(4, 64).slots((100,), np.float32).values())
    58
    """

    bits: int | None = None
    bucket: int = 64
    rounding: str = "nearest"
    bounds_dtype: str = "bfloat16"

    @property
    def quantiser(self) -> Quantiser:
        """The quantiser, for ``bits`` of at least 1."""
        return Quantiser(self.bits or 0, self.bucket, self.rounding, self.bounds_dtype)

    @property
    def is_random(self) -> bool:
        """Whether writing draws random numbers, so that ``t`` and ``seed`` are needed."""
        return bool(self.bits) and self.rounding == "stochastic"

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """``e``; with codes also ``e_min`` and ``e_max``; with random rounding also ``t`` and ``seed``."""
        if self.bits is None:
            return {"e": like_parameter(shape, dtype)}
        if self.bits == 0:
            return {}
        size = int(np.prod(shape, dtype=np.int64))
        codes = Slot(((size + 1) // 2 if self.bits <= 4 else size,), np.dtype(np.uint8), merge="same")
        kept = np.dtype(object) if dtype == object else DTYPES[self.bounds_dtype]
        bound = Slot((self.quantiser.buckets(size),), kept, merge="same")
        random = {"t": counter(), "seed": seed_slot()} if self.is_random else {}
        return {"e": codes, "e_min": bound, "e_max": bound, **random}

    def load(self, state: Mapping[str, Any], like: Any) -> Any:
        """The error as numbers, in the shape and dtype of ``like``."""
        if self.bits is None:
            return state["e"]
        if self.bits == 0:
            return zeros_like(like)
        codes = unpack(state["e"], like.size) if self.bits <= 4 else state["e"]
        return self.quantiser.decode(codes, state["e_min"], state["e_max"], like.dtype).reshape(like.shape)

    def store(self, error: Any, state: Mapping[str, Any], t: int) -> dict[str, Any]:
        """The new slots (without ``t``) that keep ``error`` at the tensor's own step ``t``."""
        if self.bits is None:
            return {"e": error}
        if self.bits == 0:
            return {}
        flat, quantiser = error.reshape(-1), self.quantiser
        low, high = quantiser.bounds(flat)
        xi = quantiser.noise(int(state["seed"]), t, flat.size) if self.is_random else None
        codes = quantiser.encode(flat, low, high, xi)
        seed = {"seed": state["seed"]} if self.is_random else {}
        return {"e": pack(codes) if self.bits <= 4 else codes, "e_min": low, "e_max": high, **seed}
