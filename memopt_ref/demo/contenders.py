"""Who runs in ``memopt compare``: rules, where each applies, and the learning rates of its grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import (
    SGD,
    SM3,
    Adafactor,
    AdaGrad,
    Adam,
    CountSketchAdaGrad,
    CountSketchAdam,
    MicroAdam,
    RowWiseAdaGrad,
)
from ..errors import HyperparameterError
from ..optimizer import Optimizer
from ..rules.base import Rule
from ..schedules import CoolDown
from .model import TABLES, Parameters

#: Sketches hold a fifth of what they replace.
COMPRESSION = 5
COOL_DOWN = 0.25


@dataclass(frozen=True)
class Contender:
    """An optimizer as it enters: ``rule`` everywhere, or ``tables`` on the two tables and ``rule`` elsewhere.

    ``rates`` are the learning rates of its grid, most trusted first.
    """

    key: str
    label: str
    rates: tuple[float, ...]
    rule: Rule
    tables: Rule | None = None

    def optimizer(
        self, params: Parameters, learning_rate: float, seed: int, steps: int, backend: str = "auto"
    ) -> Optimizer:
        """An optimizer that steps ``params`` in place; the seed sets the hash functions of a sketch.

        The learning rate is constant and falls to zero over the last quarter of the steps: without this, a
        short run prefers rates at which a longer one does not settle, and a grid of short runs would mislead.
        """
        schedule = CoolDown(learning_rate, total=steps + 1, fraction=COOL_DOWN)
        rules = [rule.replace(learning_rate=schedule) for rule in (self.rule, self.on_tables)]
        elsewhere, on_tables = (rule.replace(seed=seed) if hasattr(rule, "seed") else rule for rule in rules)
        groups = [(TABLES, on_tables)] if self.tables is not None else []
        # A diverging run of the grid is an outcome, not an error.
        return Optimizer(params, elsewhere, backend, groups=groups, nonfinite="propagate")

    @property
    def on_tables(self) -> Rule:
        """The rule that steps the two tables."""
        return self.tables or self.rule

    @property
    def scope(self) -> str:
        """Where which rule applies."""
        if self.tables is None:
            return "every parameter"
        return f"{self.tables.name} on the two tables, dense {self.rule.name} elsewhere"


CONTENDERS = (
    Contender("sgd", "SGD", (2.0, 4.0, 1.0, 8.0), SGD()),
    Contender("adagrad", "AdaGrad", (0.1, 0.2, 0.05, 0.4), AdaGrad()),
    Contender("sm3", "SM3", (0.1, 0.2, 0.05, 0.4), SM3(momentum=0.0)),
    Contender("rowwise", "RowWiseAdaGrad", (0.1, 0.2, 0.05, 0.4), RowWiseAdaGrad()),
    Contender(
        "cms-adagrad",
        "Count-min AdaGrad",
        (0.1, 0.2, 0.05, 0.4),
        AdaGrad(),
        CountSketchAdaGrad(compression=COMPRESSION),
    ),
    Contender("adam", "Adam", (0.005, 0.01, 0.0025, 0.02), Adam()),
    Contender(
        "adafactor",
        "Adafactor",
        (0.005, 0.01, 0.0025, 0.02),
        # The paper's own step size leaves no learning rate to choose; the grid chooses it, as for the others.
        Adafactor(step_size="fixed", scale_parameter=False),
    ),
    Contender(
        "cs-adam-v",
        "CountSketchAdam V",
        (0.005, 0.01, 0.0025, 0.02),
        Adam(),
        CountSketchAdam(compression=COMPRESSION, moments="second"),
    ),
    Contender(
        "cs-adam",
        "CountSketchAdam M+V",
        (0.005, 0.01, 0.0025, 0.02),
        Adam(),
        CountSketchAdam(compression=COMPRESSION),
    ),
    Contender("microadam", "MicroAdam", (0.005, 0.01, 0.0025, 0.02), MicroAdam()),
)

BY_KEY = {contender.key: contender for contender in CONTENDERS}

#: Every other optimizer's steps and seconds are those to this one's final perplexity.
YARDSTICK = "adagrad"


def choose(keys: Sequence[str] | None) -> tuple[Contender, ...]:
    """The contenders of these keys in the order of the table above; all without keys.

    Raises
    ------
    HyperparameterError
        A key is unknown.
    """
    unknown = [key for key in keys or () if key not in BY_KEY]
    if unknown:
        raise HyperparameterError(
            "--rules", repr(unknown[0]), "some of " + ", ".join(BY_KEY), "Check the spelling."
        )
    return tuple(contender for contender in CONTENDERS if not keys or contender.key in keys)
