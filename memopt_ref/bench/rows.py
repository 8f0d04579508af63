"""The rows of ``memopt bench``: what is measured, against what, and where it should come out.

``bar`` and ``goal`` are multiples of the limit ``w -= lr * g`` in float32 over as many entries, or of the
peer that ``against`` names, as prototypes of these kernels reached them on one two-core machine. They are
marks to read a figure by, and no promise for another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from ..rules.adafactor import Adafactor
from ..rules.adagrad import AdaGrad
from ..rules.adam import Adam
from ..rules.amsgrad import AMSGrad
from ..rules.base import Rule
from ..rules.count_sketch_adam import CountSketchAdam
from ..rules.microadam import MicroAdam
from ..rules.rmsprop import RMSProp
from ..rules.sgd import SGD
from ..rules.sm3 import SM3

ENTRIES = 2**24


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name : str
        What is stepped.
    rule : Rule
    shapes : tuple of shapes
        One tensor each.
    peer : str
        What the peers call it.
    bar, goal : float, optional
        Of the ratio to the limit, or to ``against``.
    against : str
        The contestant that the ratio is to.
    dtype : str
        The parameters' and gradients'.
    active : int
        For a table of which so many rows have gradients; 0 for dense gradients.
    """

    name: str
    rule: Rule
    shapes: tuple[tuple[int, ...], ...]
    peer: str = ""
    bar: float | None = None
    goal: float | None = None
    against: str = "limit"
    dtype: str = "float32"
    active: int = 0


def bert_base(width: int = 768, layers: int = 12) -> tuple[tuple[int, ...], ...]:
    """The 199 tensors of BERT-base, 109,482,240 entries, in the order of the model.

    >>> from math import prod
    >>> len(bert_base()), sum(map(prod, bert_base()))
    (199, 109482240)
    """
    square, inner, one = (width, width), (4 * width, width), (width,)
    attention = 4 * (square, one) + 2 * (one,)
    layer = (*attention, inner, (4 * width,), (width, 4 * width), one, one, one)
    embeddings = ((30522, width), (512, width), (2, width), one, one)
    return (*embeddings, *layers * layer, square, one)


def rows(entries: int = ENTRIES) -> tuple[Row, ...]:
    """All rows, for dense tensors of about so many entries (the table and BERT-base keep their own size)."""
    flat = ((entries,),)
    matrix = _matrix(entries, 1024)
    side = isqrt(entries)
    small = bert_base()
    return (
        Row("SGD", SGD(learning_rate=1e-3), flat, "SGD", 1.05, 1.0),
        Row("AdaGrad", AdaGrad(learning_rate=1e-3), flat, "AdaGrad", 1.75, 1.65),
        Row("RMSProp", RMSProp(learning_rate=1e-3), flat, "RMSProp", 1.8, 1.7),
        Row("Adam", Adam(learning_rate=1e-3), flat, "Adam", 2.45, 2.2),
        Row("AMSGrad", AMSGrad(learning_rate=1e-3), flat, "AMSGrad", 3.1, 2.85),
        Row("SM3", SM3(learning_rate=1e-3), matrix, "SM3", 1.35, 1.2),
        Row("SM3 square", SM3(learning_rate=1e-3), ((side, side),), "", 1.5, 1.3),
        Row("SM3 wide", SM3(learning_rate=1e-3), ((64, entries // 64),), "", 1.5, 1.3),
        Row("SM3 narrow", SM3(learning_rate=1e-3), _matrix(entries, 16), "", 2.3, 1.8),
        Row("SM3 momentum", SM3(learning_rate=1e-3, momentum=0.9), matrix, "SM3 momentum", 2.05, 1.85),
        # The parameter is read anew for its size, since a sum that was carried could be stale.
        Row("Adafactor", Adafactor(learning_rate=1e-3), matrix, "Adafactor", 3.4, 3.0),
        Row("MicroAdam", MicroAdam(learning_rate=1e-3), flat, "", 2.8, 2.35),
        Row("Adam bfloat16", Adam(learning_rate=1e-3), flat, "Adam", 2.35, 2.1, dtype="bfloat16"),
        Row(
            "CountSketchAdam rows",
            CountSketchAdam(learning_rate=1e-3, compression=5),
            ((200_000, 256),),
            "SparseAdam",
            0.45,
            0.3,
            against="torch",
            active=4096,
        ),
        Row("Adam, BERT-base", Adam(learning_rate=1e-3), small, "Adam", 1.0, 0.93, against="torch"),
        Row("SM3, BERT-base", SM3(learning_rate=1e-3), small, "Adam", 0.65, 0.55, against="torch"),
    )


def _matrix(entries: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return ((max(entries // columns, 1), columns),)
