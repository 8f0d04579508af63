"""Any rule as a ``torch.optim.Optimizer``: existing training code changes one line.

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    optimizer = mo.interop.torch.Optimizer(model.parameters(), mo.Adam(learning_rate=1e-3))

Parameters and state are stepped where they lie, by NumPy's views of torch's own memory, or CuPy's on a GPU;
the kernels and their bits are those of :class:`memopt_ref.Optimizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

try:
    import torch
except ModuleNotFoundError as missing:
    message = "memopt_ref.interop.torch needs PyTorch; see https://pytorch.org for its installation"
    raise ModuleNotFoundError(message, name="torch") from missing

from ..errors import CheckpointMismatchError, HyperparameterError, StructureError
from ..groups import check_rule
from ..optimizer import Policy
from ..rules.base import Rule
from . import torch_bridge, torch_groups, torch_state, torch_stored
from .torch_engine import Engine, leaves_of

_REFUSED = {
    "maximize": "Negate the loss.",
    "differentiable": "A step is made in place, outside autograd; no gradient goes through it.",
    "capturable": "A step decides on the host and cannot be part of a CUDA graph; leave it False.",
}


class Optimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """A rule as an optimizer of torch.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor), or of dicts
        As every optimizer of torch takes them. Tensors on the CPU, or all on one CUDA device, float64,
        float32, float16 or bfloat16, of any strides; no two share memory. A dict may give another ``rule``,
        and hyper-parameters by the rule's names or torch's (``lr``, ``betas``).
    rule : Rule
        For every group without its own.
    backend : {"auto", "numpy", "numba", "cupy", ...}
        See :class:`memopt_ref.Optimizer`.
    nonfinite : {"raise", "skip", "zero", "propagate"}
        What to do about NaN and infinity in a gradient. The default refuses the step and changes nothing;
        torch's optimizers do ``"propagate"``.
    max_norm : float, optional
        Clip the global norm of all gradients to this.
    foreach, fused : bool, optional
        Accepted and without effect.
    maximize, differentiable, capturable : bool
        Only False.

    Raises
    ------
    BackendError
        A tensor that lies neither on the CPU nor on a CUDA device, or tensors on several devices, since
        nothing is copied silently; or on a CUDA device without CuPy, saying what to install; or there with a
        rule that has no kernel.
    HyperparameterError, DtypeError, AliasError, StructureError
        See :class:`memopt_ref.Optimizer`.

    Notes
    -----
    ``param_groups`` show the rule's numbers (``lr``, ``momentum``, ``betas``, ...); what is written there,
    by a scheduler of torch for example, holds from the next step on. Numbers that decide what state there is
    (a momentum of 0 has none) cannot change. ``group["step"]`` counts applied steps.

    ``state`` holds every slot as a tensor of the dtype that the rule declares, counters and seeds too, from
    the start. ``state_dict`` is plain tensors and values (``torch.load`` reads it with its default
    ``weights_only=True``); ``load_state_dict`` copies bit for bit and casts nothing, checks everything
    before it changes anything, and resumes exactly. Rules and schedules are stored as text and compared.

    Sparse gradients (``torch.nn.Embedding(sparse=True)``) are stepped as :class:`~memopt_ref.RowSparse`.

    On a CUDA device parameters, gradients and slots stay there: CuPy views them by DLPack, the kernels run on
    torch's current stream, and slots come from CuPy's pool of memory, which ``torch.cuda.memory_allocated``
    does not count. Counters and seeds are tensors on the CPU, as torch's own ``step`` is. The default
    ``nonfinite="raise"`` waits for the device once a step; ``"propagate"`` does not. This was run with
    tensors of the host in the place of CUDA's and simulated kernels; no GPU has run it yet.

    References
    ----------
    ``torch.optim.Optimizer`` of PyTorch 2.13.

    Examples
    --------
    >>> from memopt_ref.rules.sgd import SGD
    >>> w = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = Optimizer([w], SGD(learning_rate=0.5))
    >>> (w * torch.tensor([1.0, -2.0])).sum().backward()
    >>> optimizer.step()
    >>> w.data, optimizer.param_groups[0]["lr"]
    (tensor([0.5000, 2.0000]), 0.5)
    """

    def __init__(
        self,
        params: Iterable[Any],
        rule: Rule,
        *,
        backend: str = "auto",
        nonfinite: Policy = "raise",
        max_norm: float | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        check_rule("rule", rule)
        flags = {"maximize": maximize, "differentiable": differentiable, "capturable": capturable}
        _check_flags("Optimizer", flags)
        self._options: dict[str, Any] = {"backend": backend, "nonfinite": nonfinite, "max_norm": max_norm}
        self._engine: Engine | None = None
        self._complete = False
        super().__init__(params, {"rule": rule, **torch_groups.shown(rule)})
        self._complete = True
        self._current()

    def add_param_group(self, param_group: Any) -> None:
        """Add a group; its state is there at once.

        Parameters
        ----------
        param_group : dict
            ``params``, and if wished ``rule`` and hyper-parameters.
        """
        if not isinstance(param_group, dict):
            wanted = "a dict with 'params'"
            got = f"a {type(param_group).__name__}"
            raise StructureError("param group", got, wanted, "Pass {'params': tensors}.")
        where = f"param_groups[{len(self.param_groups)}]"
        rule = param_group.get("rule", self.defaults["rule"])
        check_rule(where, rule)
        _check_flags(where, param_group)
        group = torch_groups.with_rule(param_group, rule)
        group["step"] = self._step_count if self.param_groups else 0
        own = set(group) | {"param_names"}
        super().add_param_group(group)
        for key in set(group) - own:
            del group[key]
        if self._complete:
            try:
                self._current()
            except BaseException:
                self.param_groups.pop()
                raise

    @property
    def _step_count(self) -> int:
        count: int = self.param_groups[0]["step"]
        return count

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model anew and returns the loss.

        Returns
        -------
        float or tensor, optional
            The loss that the closure returned.

        Raises
        ------
        MemoptError
            As :meth:`memopt_ref.Optimizer.step`: nothing has changed, or (TornError) an earlier step was
            interrupted while it wrote.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        engine = self._current()
        moved = engine.step(self._step_count, self.state)
        if moved is not None:
            for group in self.param_groups:
                group["step"] = engine.inner.step_count
            # The memory was written behind autograd's back: a graph that needs the old values has to notice.
            torch.autograd.graph.increment_version(moved)
        return loss

    def _current(self) -> Engine:
        """The engine for the tensors as they lie now; a parameter's ``data`` may have been replaced."""
        leaves = leaves_of(self.param_groups)
        if self._engine is not None:
            self._engine.check_whole()
            if self._engine.serves(leaves, self.param_groups):
                return self._engine
        engine = Engine(leaves, self.param_groups, self._options)
        engine.complete(self.state)
        self._engine = engine
        return engine

    def state_dict(self) -> dict[str, Any]:
        """The state by the parameters' numbers, and the groups, as tensors and plain values.

        Returns
        -------
        dict
            ``{"state": {0: {slot: tensor}}, "param_groups": [...]}``; the tensors are the live ones.
        """
        self._current()
        state: dict[str, Any] = super().state_dict()
        groups = [torch_stored.packed(group) for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a stored state, bit for bit.

        Parameters
        ----------
        state_dict : dict
            From :meth:`state_dict` of an optimizer with the same rules and the same shapes, in the same
            order.

        Raises
        ------
        CheckpointMismatchError
            It belongs to another rule, schedule or shape; nothing has changed. Names the leaf and the slot,
            what is stored and what was wanted.
        """
        state_dict = dict(state_dict)
        for before in tuple(self._optimizer_load_state_dict_pre_hooks.values()):
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        groups, saved = self._checked(state_dict)
        with torch.no_grad():
            for p, state in saved.items():
                for name, value in state.items():
                    self.state[p][name].copy_(value)
        self.__setstate__({"state": self.state, "param_groups": groups})
        for after in tuple(self._optimizer_load_state_dict_post_hooks.values()):
            after(self)

    def _checked(self, state_dict: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
        """The groups and each tensor's state in a state_dict that fits; changes nothing."""
        stored = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in stored], [len(g["params"]) for g in self.param_groups]
        if sizes[0] != sizes[1]:
            advice = "Make the optimizer with the groups that were saved."
            got, wanted = f"groups of {sizes[0]} parameters", f"groups of {sizes[1]} parameters"
            raise CheckpointMismatchError("param_groups", got, wanted, advice)
        paths = {p: path for path, p in leaves_of(self.param_groups).items()}
        groups: list[dict[str, Any]] = []
        saved: dict[Any, Any] = {}
        for theirs, mine in zip(stored, self.param_groups, strict=True):
            groups.append(torch_stored.unpacked(theirs, mine, f"param_groups[{len(groups)}]"))
            shapes = []
            for number, p in zip(theirs["params"], mine["params"], strict=True):
                shapes.append((tuple(p.shape), torch_bridge.dtype_of(p.dtype)))
                slots = mine["rule"].slots(*shapes[-1])
                saved[p] = state_dict["state"].get(number, {})
                torch_state.check(paths[p], saved[p], slots)
            torch_groups.check_numbers(groups[-1], shapes)
        return groups, saved

    def explain(self) -> str:
        """One line a parameter: dtype and shape, rule, kernel variant, and why this one."""
        return self._current().explain(self._step_count)

    @property
    def state_nbytes(self) -> int:
        """Bytes of all slots of all parameters, counters included."""
        states = (state for state in self.state.values() if isinstance(state, dict))
        return sum(t.numel() * t.element_size() for state in states for t in state.values())

    def __getstate__(self) -> dict[str, Any]:
        if self._engine is not None:
            self._engine.check_whole()
        kept: dict[str, Any] = super().__getstate__()
        return {**kept, "_options": self._options, "_complete": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._engine = None


def _check_flags(where: str, given: dict[str, Any]) -> None:
    for name, advice in _REFUSED.items():
        if given.get(name):
            raise HyperparameterError(f"{where}: {name}", repr(given[name]), "False", advice)
