"""Error feedback, EF21 and Adam on compressed gradients as passes, and what compressors do between them.

The compressor's argument is an array x, seen as rows: the blocks of Top-K and of scaled signs, each of which
has its own numbers; or, for one-bit signs, as a matrix whose columns have theirs.
"""

from __future__ import annotations

import functools
from typing import Any

from memopt_ref.rules.adam import adam

from . import passes
from .kernel import Kernel, text
from .passes import Pass, begun, call, gradient

#: Threads of a block of all kernels but the passes.
BLOCK = 256
#: What x is: e + lr g, e being x before; lr g where no error is kept; g - d; e + g; g.
ARGUMENTS = {
    "descent": ("const Real moved = learning_rate_ * x;", "x_one = x_ + moved;"),
    "alone": ("const Real moved = learning_rate_ * x;", "x_one = (Real)0 + moved;"),
    "difference": ("x_one = x - d_;",),
    "sum": ("x_one = x_ + x;",),
    "gradient": ("x_one = x;",),
}
#: C(x) of an entry, and the arrays that say how: those by row, those by column.
COMPRESSORS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "identity": ("const Real c = x_;", (), ()),
    "top-k": (
        "const Image image = magnitude(x_); "
        "const bool kept = image > least_ || (image == least_ && at + n <= last_); "
        "const Real c = kept ? x_ : (Real)0;",
        ("least", "last"),
        (),
    ),
    "sign": ("const Real scale = total_ / length_; const Real c = scale * sign(x_);", ("total",), ()),
    "one-bit": ("const Real c = select(x_ < (Real)0, below_, above_);", (), ("above", "below")),
}
#: The numbers of an argument (without ``length``, that of a block) and of a step; Adam's has more after them.
NUMBERS = ("decay", "learning_rate", "length")
#: Leaves of |x|, for scaled signs.
MAGNITUDES = Pass("feedback_magnitudes", ("x",), ("const Real q = absolute(x_);",))
ADAM = ("beta1", "fresh1", "beta2", "fresh2", "correction1", "correction2", "eps_root", "eps")


def argument(form: str, l2: bool) -> Pass:
    """What makes x, by the forms of ``ARGUMENTS``."""
    beside = ("d",) if form == "difference" else ()
    arrays = ("g", *(("w",) if l2 else ()), *beside, "x")
    fresh = () if form in ("descent", "sum") else ("x",)
    body = (*gradient(l2), *ARGUMENTS[form])
    return Pass("feedback_argument", arrays, body, NUMBERS[:2], ("x",), fresh=fresh)


@functools.cache
def step(compressor: str, rule: str, keeps: bool, decay: str) -> Pass:
    """What makes C(x) and steps.

    Parameters
    ----------
    compressor : str
        One of ``COMPRESSORS``.
    rule : {"descent", "ef21", "adam"}
        What is stepped along C(x).
    keeps : bool
        What C(x) leaves behind takes the place of x.
    decay : {"none", "l2", "factor"}
    """
    how, by_row, by_column = COMPRESSORS[compressor]
    slots = {"descent": (), "ef21": ("d",), "adam": ("m", "v")}[rule]
    body = [how, *begun(decay)]
    if rule == "adam":
        body += [*call(adam, ("w", "m", "v"), w="begun", g="c"), "m_one = m;", "v_one = v;"]
    elif rule == "ef21":
        body += ["const Real d = d_ + c;", "const Real moved = learning_rate_ * d;", "d_one = d;"]
    if rule != "adam":
        body += [f"const Real w = begun - {'moved' if rule == 'ef21' else 'c'};"]
    body += ["narrow_into(w_one, w);", *(["x_one = x_ - c;"] if keeps else [])]
    arrays = ("x", "w", *slots, *by_row, *by_column)
    written = ("w", *slots, *(("x",) if keeps else ()))
    numbers = (*NUMBERS, *(ADAM if rule == "adam" else ()))
    before = "magnitude.cuh" if compressor == "top-k" else ""
    return Pass("feedback_step", arrays, tuple(body), numbers, written, by_row, by_column, before=before)


@functools.cache
def top_k(part: str, native: Any) -> Kernel:
    """One of the kernels that look for the least magnitude kept: ``top_k_*.cu``."""
    name = f"top_k_{part}"
    return passes.whole(
        name, tuple(map(text, ("magnitude.cuh", "top_k.cuh", f"{name}.cu"))), native, native, BLOCK=BLOCK
    )


@functools.cache
def small(part: str, native: Any, kept: Any, **sizes: int) -> Kernel:
    """One of the kernels around the passes, ``feedback_*.cu``; ``kept`` is the dtype of a bucket's bounds."""
    name = f"feedback_{part}"
    return passes.whole(name, (text(f"{name}.cu"),), native, kept, BLOCK=BLOCK, **sizes)
