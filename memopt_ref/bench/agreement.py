"""Do two runs on one commit agree? Figure by figure, within a margin that goes by what the figure is.

Values that every machine reproduces are the same number. Ratios differ by what the gate saw, over repeated
runs, of a kernel's ratio to the limit, or to NumPy where that is what a ratio is to; or for a rule that it
does not time by the widest of these. Times, what a step borrows, which depends on which thread comes first,
and sketches have margins of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .gate import LEAST_MARGIN
from .history import Key

#: Of absolute times. On the history's machine the plainest step there is took 1.7 times as long for some
#: minutes, with nothing else running on it.
TIMES = 2.0
#: Ratios of rules whose sketches are about as large as the last cache, of which a machine's neighbours leave
#: now more and now less: CountSketchAdam to the limit was 9.2, 14.9, 15.0 and 19.4 on one day.
SKETCHED, OF_SKETCHES = "CountSketch", 2.2
#: Benchmarks of values that hang on the order of threads.
LOOSE = ("values.Borrowed.",)
#: Benchmarks of ratios to NumPy's steps.
TO_NUMPY = ("ratios.AgainstNumpy.", "ratios.Backends.", "ratios.Rows.")


class Apart(NamedTuple):
    """A figure of which two runs do not agree; ``second`` is None where the second run has none."""

    benchmark: str
    parameters: tuple[str, ...]
    first: float
    second: float | None
    margin: float

    def __str__(self) -> str:
        name = f"{self.benchmark}({', '.join(self.parameters)})"
        if self.second is None:
            return f"{name}: {self.first:.4g}, then none"
        return f"{name}: {self.first:.4g}, then {self.second:.4g}; allowed is a factor of {self.margin:.3g}"


def margin(key: Key, gate: Mapping[str, Any]) -> float:
    """The factor by which two runs may differ; 1 for a value that has to be the same.

    Parameters
    ----------
    key : Key
        Name and parameters of the benchmark.
    gate : mapping
        The table of :mod:`.gate`.

    Examples
    --------
    >>> gate = {"rows": {"Adam": {"limit": {"ratio": 2.0, "margin": 1.3}}}}
    >>> margin(("ratios.AgainstLimit.track_ratio", ("Adam",)), gate)
    1.3
    >>> margin(("ratios.AgainstLimit.track_ratio", ("CountSketchAdam",)), gate)
    2.2
    >>> margin(("values.State.track_state_bytes_per_parameter", ("Adam",)), gate)
    1.0
    """
    benchmark, parameters = key
    if benchmark.startswith(LOOSE):
        return LEAST_MARGIN
    if benchmark.startswith("values."):
        return 1.0
    if benchmark.startswith("times."):
        return TIMES
    if any(name.startswith(SKETCHED) for name in parameters):
        return OF_SKETCHES
    to = "numpy" if benchmark.startswith(TO_NUMPY) else "limit"
    margins = {name: float(row[to]["margin"]) for name, row in gate["rows"].items()}
    return max((margins[name] for name in parameters if name in margins), default=max(margins.values()))


def apart(first: Mapping[Key, float], second: Mapping[Key, float], gate: Mapping[str, Any]) -> list[Apart]:
    """The figures of the first run with which the second does not agree, those that it lacks among them."""
    found = []
    for key, value in first.items():
        other, allowed = second.get(key), margin(key, gate)
        if other is None or not _agree(value, other, allowed):
            found.append(Apart(*key, value, other, allowed))
    return found


def _agree(x: float, y: float, factor: float) -> bool:
    if factor == 1.0 or min(x, y) <= 0.0:
        return x == y
    return max(x, y) <= factor * min(x, y)
