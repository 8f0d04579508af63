"""Another library's optimizer as a black box: it is shown gradients on a box, and its regret is measured.

Nothing is asked of it but its steps, so no link of a proof can be looked at: what is left of a bound is its
two ends, the regret and the value at level C. A bound is held against the player wherever the *game* meets
its conditions; whether the player is of the bound's class is for its author to say. A ratio above 1 means
that the player is not what the theorem is about, or that its rate is not the theorem's.

Three interfaces are known, found out from the factory itself:

* torch's: ``factory([parameter], **options)`` with ``parameter.grad`` and ``step()``. A library without
  tensors of its own gets a plain parameter with ``data`` and ``grad``, NumPy arrays;
* optax's: ``factory(**options)`` with ``init(w)`` and ``update(g, state, w)``, whose result is added to w;
* this library's own rules, as ``memopt_ref.Adam``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import HyperparameterError
from ..rules.base import Rule
from . import games
from .bounds import Bound, all_bounds
from .geometry import Array, Box
from .play import Game, Trace, play
from .players import Fixed
from .verify import Record, judge

#: Boxes, in the order of the table: adversaries first, then Reddi's games, then losses that are not linear.
GAMES = (
    "zigzag_run",
    "bang_bang",
    "constant",
    "rademacher",
    "leader_trap",
    "reddi3",
    "reddi101",
    "opposite_targets",
    "logistic",
)

#: What installs a module, where its name is not that of the distribution.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "cupy": "cupy-cuda12x", "memopt_ref": "memopt-ref"}


@dataclass
class Parameter:
    """What a library without tensors of its own is given: ``step()`` has to write ``data``."""

    data: Array
    grad: Array = None


class Stepper:
    """One optimizer with one array: ``step(w, g)`` is the new w."""

    def step(self, w: Array, g: Array) -> Array:
        """One step from w along g."""
        raise NotImplementedError


class TorchLike(Stepper):
    """An optimizer over a list of parameters."""

    def __init__(self, factory: Any, options: Mapping[str, Any], w: Array, tensors: Any) -> None:
        self.tensors = tensors
        self.parameter: Any = Parameter(np.array(w))
        if tensors is not None:
            self.parameter = tensors.nn.Parameter(tensors.from_numpy(np.array(w)))
        self.optimizer = factory([self.parameter], **options)

    def step(self, w: Array, g: Array) -> Array:
        """Write w and g, step, read w."""
        if self.tensors is None:
            self.parameter.data, self.parameter.grad = np.array(w), np.array(g)
            self.optimizer.step()
            return np.array(self.parameter.data)
        self.parameter.data.copy_(self.tensors.from_numpy(np.array(w)))
        self.parameter.grad = self.tensors.from_numpy(np.array(g))
        self.optimizer.step()
        return self.parameter.detach().numpy().copy()


class OptaxLike(Stepper):
    """A gradient transformation."""

    def __init__(self, factory: Any, options: Mapping[str, Any], w: Array, arrays: Any) -> None:
        self.cast = np.asarray
        made = factory(**options)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise TypeError(
                f"it makes a {type(made).__name__}, without step(), and without init() and update()"
            )
        update = made.update
        if arrays is not None:
            # float64 arrays silently become float32 without this; it holds for the whole process.
            arrays.config.update("jax_enable_x64", True)
            self.cast, update = arrays.numpy.asarray, arrays.jit(made.update)
        self.update, self.state = update, made.init(self.cast(w))

    def step(self, w: Array, g: Array) -> Array:
        """w plus the update."""
        change, self.state = self.update(self.cast(g), self.state, self.cast(w))
        return np.array(w) + np.asarray(change)


class OwnRule(Stepper):
    """A rule of this library, seen from outside."""

    def __init__(self, factory: Any, options: Mapping[str, Any], w: Array) -> None:
        self.rule, self.t = factory(**options), 0
        self.state = self.rule.init_leaf(w)

    def step(self, w: Array, g: Array) -> Array:
        """Its step."""
        self.t += 1
        moved, self.state = self.rule.at(self.t).advance(w, g, self.state)
        return np.asarray(moved)


@dataclass(frozen=True)
class Foreign(Fixed):
    """A player that is a stepper and shows nothing.

    Parameters
    ----------
    path : str
        The factory's dotted name, such as ``"torch.optim.Adam"``.
    options : mapping
        Its keyword arguments.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The call."""
        return f"{self.path}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """A new optimizer."""
        return {"stepper": self.stepper(w)}

    def stepper(self, w: Array) -> Stepper:
        """Made by the factory, for one array.

        Raises
        ------
        HyperparameterError
            The factory cannot be found, or takes no such options, or makes nothing that steps.
        """
        factory = find(self.path)
        try:
            return _made(factory, self.options, np.asarray(w, np.float64))
        except (TypeError, ValueError) as error:
            wanted = f"arguments of {self.path}{_signature(factory)}"
            raise HyperparameterError(
                self.path, f"{self.name}: {error}", wanted, "See its manual."
            ) from error

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """One step; the box's clip is written back before the next."""
        return {"w": np.asarray(state["stepper"].step(w, g), np.float64), "stepper": state["stepper"]}


def _signature(factory: Any) -> str:
    try:
        return f"({', '.join(inspect.signature(factory).parameters)})"
    except (TypeError, ValueError):
        return "(...)"


def find(path: str) -> Any:
    """The object of a dotted name.

    Raises
    ------
    HyperparameterError
        Its module is not installed (the advice names what to install), or has no such member.

    Examples
    --------
    >>> find("memopt_ref.SGD").__name__
    'SGD'
    """
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        advice = "Write it as in torch.optim.Adam or optax.adam."
        raise HyperparameterError("foreign", repr(path), "a dotted name with its module", advice)
    root = parts[0]
    try:
        found = importlib.import_module(root)
    except ModuleNotFoundError as error:
        missing = error.name or root
        advice = f"Install it: pip install {DISTRIBUTIONS.get(missing, missing)}"
        raise HyperparameterError("foreign", repr(path), f"the module {missing}", advice) from error
    for k, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            try:
                found = importlib.import_module(".".join(parts[:k]))
                continue
            except ModuleNotFoundError:
                where = ".".join(parts[: k - 1])
                advice = "Check the spelling."
                raise HyperparameterError("foreign", repr(path), f"a member of {where}", advice) from None
        found = getattr(found, part)
    return found


def _made(factory: Any, options: Mapping[str, Any], w: Array) -> Stepper:
    if isinstance(factory, type) and issubclass(factory, Rule):
        return OwnRule(factory, options, w)
    ancestors = {kind.__module__.partition(".")[0] for kind in getattr(factory, "__mro__", ())}
    if "torch" in ancestors:
        return TorchLike(factory, options, w, importlib.import_module("torch"))
    if _takes_parameters(factory):
        return TorchLike(factory, options, w, None)
    uses_jax = getattr(factory, "__module__", "").partition(".")[0] == "optax"
    return OptaxLike(factory, options, w, importlib.import_module("jax") if uses_jax else None)


def _takes_parameters(factory: Any) -> bool:
    """Whether the first argument has torch's name and no default, or the class steps."""
    if isinstance(factory, type) and callable(getattr(factory, "step", None)):
        return True
    try:
        first = next(iter(inspect.signature(factory).parameters.values()), None)
    except (TypeError, ValueError):
        return False
    return first is not None and first.name in ("params", "parameters") and first.default is first.empty


@dataclass(frozen=True)
class Recorded(Fixed):
    """A play seen before, shown again: each bound sums what it needs without stepping the box anew."""

    title: str
    iterates: tuple[Array, ...]

    @property
    def name(self) -> str:
        """The player's whose play it was."""
        return self.title

    def init_leaf(self, w: Array) -> dict[str, Any]:
        """How many rounds have been shown."""
        return {"shown": 0}

    def values(self, w: Array, g: Array, state: Any) -> dict[str, Any]:
        """The next iterate."""
        return {"w": self.iterates[state["shown"]], "shown": state["shown"] + 1}


@dataclass(frozen=True)
class Hearing:
    """A black box on one game: its play, and the bounds that speak of the game, the worst ratio first."""

    game: Game
    trace: Trace
    records: tuple[Record, ...]

    @property
    def regret(self) -> float:
        """At the comparator found."""
        return float(self.trace.regret()[0])


def fitting(game: Game, T: int) -> list[Bound]:
    """The bounds that speak of this game: tuned corollaries, and AMSGrad's, which name their rate.

    A theorem for every step size is left out: its value is for its own rate, which a black box does not have.
    """
    chosen = [
        b for b in all_bounds().values() if not b.known_false and (b.corollary or b.family == "amsgrad")
    ]
    return [b for b in chosen if isinstance(game.domain, Box) and not b.gate(game, T)]


def against(bound: Bound, game: Game, T: int, seen: Trace) -> Record | None:
    """A bound held against a finished play; None if it needs more than gradients, or is not about regret."""
    assert seen.x is not None
    player = Recorded(seen.player.name, tuple(seen.x[1:]))
    try:
        record = judge(bound, play(player, game, T, observers=bound.observers(game, T)))
    except KeyError:
        # An observer asks for a value of the rule itself, by its name.
        return None
    return record if record.about_regret and record.value == record.value else None


def games_of(T: int) -> Iterator[Game]:
    """The boxes."""
    for name in GAMES:
        yield games.BY_NAME[name](T)


def hearings(player: Any, T: int, tell: Callable[[str], None] = lambda name: None) -> Iterator[Hearing]:
    """Play every game, and hold the bounds that fit against it.

    Parameters
    ----------
    player : Foreign, or any player
    T : int
        Rounds of each game.
    tell : function of a game's name, optional
        Called before each.
    """
    for game in games_of(T):
        tell(game.name)
        trace = play(player, game, T, keep=True)
        found = [against(bound, game, T, trace) for bound in fitting(game, T)]
        records = [record for record in found if record is not None]
        yield Hearing(game, trace, tuple(sorted(records, key=lambda r: -r.ratio)))
