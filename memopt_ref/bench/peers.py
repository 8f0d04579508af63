"""The same steps by other libraries, each in the fastest form that it offers on a processor.

A function of shapes returns a step on tensors of its own, or None where the library has no such optimizer.
Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from .limit import Shapes, Step
from .tracks import chosen, normal

#: Name of the optimizer in the rows -> constructor and arguments in torch.optim.
TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 1e-3, "fused": True}),
    "AdaGrad": ("Adagrad", {"lr": 1e-3, "fused": True}),
    "RMSProp": ("RMSprop", {"lr": 1e-3, "foreach": True}),
    "Adam": ("Adam", {"lr": 1e-3, "fused": True}),
    "AdamW": ("AdamW", {"lr": 1e-3, "fused": True}),
    "AMSGrad": ("Adam", {"lr": 1e-3, "fused": True, "amsgrad": True}),
    "Adafactor": ("Adafactor", {"lr": 1e-3}),
}


def installed(library: str) -> bool:
    """Whether a peer's library can be imported."""
    return find_spec(library) is not None


def torch_step(name: str, shapes: Shapes, dtype: str = "float32") -> Step | None:
    """A step of ``torch.optim``; in ``dtype`` throughout, its states too."""
    if name not in TORCH:
        return None
    import torch

    parameters = []
    for shape in shapes.values():
        p = torch.nn.Parameter(torch.from_numpy(normal(shape, 1)).to(getattr(torch, dtype)))
        p.grad = torch.from_numpy(normal(shape, 2, 1e-2)).to(p.dtype)
        parameters.append(p)
    kind, arguments = TORCH[name]
    optimizer = getattr(torch.optim, kind)(parameters, **arguments)
    return lambda: optimizer.step()


def torch_sparse_adam(rows: int, active: int, columns: int) -> Step:
    """``torch.optim.SparseAdam`` on a table of which a few rows have gradients, making its sparse tensor."""
    import torch

    table = torch.nn.Parameter(torch.zeros(rows, columns))
    optimizer = torch.optim.SparseAdam([table], lr=1e-3)
    indices = torch.from_numpy(chosen(rows, active))[None]
    values = torch.from_numpy(normal((active, columns), 2, 1e-2))

    def step() -> None:
        table.grad = torch.sparse_coo_tensor(
            indices, values, (rows, columns), is_coalesced=True, check_invariants=False
        )
        optimizer.step()

    return step


def optax_step(name: str, shapes: Shapes) -> Step | None:
    """A jitted step of optax that gives its old buffers away."""
    import jax
    import optax  # type: ignore[import-not-found, unused-ignore]

    makers: dict[str, Callable[[], Any]] = {
        "SGD": lambda: optax.sgd(1e-3),
        "AdaGrad": lambda: optax.adagrad(1e-3),
        "RMSProp": lambda: optax.rmsprop(1e-3),
        "Adam": lambda: optax.adam(1e-3),
        "AMSGrad": lambda: optax.amsgrad(1e-3),
        "SM3": lambda: optax.sm3(1e-3, 0.0),
        "SM3 momentum": lambda: optax.sm3(1e-3, 0.9),
        "Adafactor": lambda: optax.adafactor(1e-3),
    }
    if name not in makers:
        return None
    transform = makers[name]()
    params = {key: jax.numpy.asarray(normal(shape, 1)) for key, shape in shapes.items()}
    grads = {key: jax.numpy.asarray(normal(shape, 2, 1e-2)) for key, shape in shapes.items()}
    state = transform.init(params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(update, donate_argnums=(0, 1))
    held = [params, state]

    def step() -> None:
        held[:] = jitted(held[0], held[1], grads)
        jax.block_until_ready(held[0])

    return step


def pytorch_optimizer_step(name: str, shapes: Shapes) -> Step | None:
    """A step of the package pytorch_optimizer, which has SM3."""
    arguments = {"SM3": {"momentum": 0.0, "beta": 0.0}, "SM3 momentum": {"momentum": 0.9, "beta": 0.0}}.get(
        name
    )
    if arguments is None:
        return None
    import pytorch_optimizer  # type: ignore[import-not-found, unused-ignore]
    import torch

    parameters = []
    for shape in shapes.values():
        p = torch.nn.Parameter(torch.from_numpy(normal(shape, 1)))
        p.grad = torch.from_numpy(normal(shape, 2, 1e-2))
        parameters.append(p)
    optimizer = pytorch_optimizer.SM3(parameters, lr=1e-3, **arguments)
    return lambda: optimizer.step()


PEERS: dict[str, Callable[[str, Shapes], Step | None]] = {
    "torch": torch_step,
    "optax": optax_step,
    "pytorch_optimizer": pytorch_optimizer_step,
}
