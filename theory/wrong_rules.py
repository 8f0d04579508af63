"""Rules that are wrong by one method: what no number of a right rule can make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..parts.covers import AxisCover
from ..parts.metric import Metric
from ..parts.scalar import ratio
from ..parts.slots import Slot
from ..rules.adagrad import AdaGrad
from ..rules.analysed_microadam import AnalysedMicroAdam
from ..rules.error_feedback import EF21, ErrorFeedbackSGD
from ..rules.sgd import SGD
from ..rules.sm3 import SM3


@dataclass(frozen=True)
class MeanCover(AxisCover):
    """The mean of a set's members where SM3 takes the maximum."""

    def reduce(self, x: Any) -> dict[str, Any]:
        """Means over all axes but one."""
        return {f"mu_{a}": np.mean(x, axis=tuple(b for b in range(x.ndim) if b != a)) for a in range(x.ndim)}


@dataclass(frozen=True)
class MaxCover(AxisCover):
    """The largest accumulator of an entry's sets where SM3 takes the least."""

    def gather(self, mu: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
        """Max over the sets of each entry."""
        return -super().gather({name: -array for name, array in mu.items()}, shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetfulSM3(SM3):
    """mu <- max(mu, max g^2): the sums are lost."""

    def sm3_ii(self, g: Any, mu: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The maximum of squares instead of the maximum of nu'."""
        top = self.cover.reduce(g * g)
        return self.cover.gather(mu, g.shape) + g * g, {r: np.maximum(mu[r], top[r]) for r in top}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RootlessSM3(SM3):
    """Divides by nu instead of its root."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """The same accumulators."""
        values = super().step(w, g, state)
        u = ratio(g, values["nu"])
        return values | {"w": w - self.learning_rate * u, "u": u, "denominator": values["nu"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongAdaGrad(AdaGrad):
    """A kernel that steps 10 % further than its rule's metric says."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """The rule's step, stretched."""
        values = super().step(w, g, state)
        return values | {"w": w + 1.1 * (values["w"] - w)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortSGD(SGD):
    """The opposite, of gradient descent: 10 % short."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """The rule's step, cut."""
        values = super().step(w, g, state)
        return values | {"w": w + 0.9 * (values["w"] - w)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateAdaGrad(AdaGrad):
    """Divides by the root of the sum of the *earlier* squares."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """One round late."""
        values, late = super().step(w, g, state), np.sqrt(state["s"])
        return values | {"w": w - self.learning_rate * ratio(g, late), "denominator": late}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactoredAdaGrad(SM3):
    """A rank-1 second moment of row and column sums, as in Adafactor but summed."""

    def slots(self, shape: tuple[int, ...], dtype: Any) -> dict[str, Slot]:
        """Sums by rows and by columns."""
        return {f"r_{a}": Slot((n,), np.dtype(dtype)) for a, n in enumerate(shape)}

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """Outer product of the sums over the total."""
        rows, columns = state["r_0"] + np.sum(g * g, 1), state["r_1"] + np.sum(g * g, 0)
        denominator = np.sqrt(ratio(np.outer(rows, columns), np.sum(rows)))
        w = w - self.learning_rate * ratio(g, denominator)
        return {"w": w, "r_0": rows, "r_1": columns, "denominator": denominator}

    def metric(self, values: Mapping[str, Any]) -> Metric:
        """As AdaGrad's."""
        return Metric.diagonal(values["denominator"] / self.learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignSGD(SGD):
    """Steps along the sign of the gradient."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """w - lr sign(g)."""
        return super().step(w, np.sign(g), state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpitefulEF(ErrorFeedbackSGD):
    """Error feedback with the wrong sign: e <- C(p) - p."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """What was dropped is subtracted."""
        values = super().step(w, g, state)
        return values | {"e": -values["e"]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetfulEF21(EF21):
    """Compressed descent: d <- C(g) instead of d + C(g - d)."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """From d = 0 every time."""
        return super().step(w, g, state | {"d": np.zeros_like(w)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoardingMicroAdam(AnalysedMicroAdam):
    """The error keeps what was sent: e <- Q(e + g)."""

    def step(self, w: Any, g: Any, state: Any) -> dict[str, Any]:
        """Nothing is ever paid off."""
        values = super().step(w, g, state)
        return values | {"e": values["e"] + values["g_tilde"]}
