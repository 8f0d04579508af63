"""How to run another library's optimizer on one array, for the recordings and for the live comparison.

``run("torch", "Adagrad", {"lr": 0.1}, w0, gradients)`` returns the weights after each step. A library is
imported only when it is run. What a library needs to be run exactly is said beside the line that does it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

Arguments = dict[str, Any]

# Keras looks for TensorFlow unless it is told otherwise before its first import.
os.environ.setdefault("KERAS_BACKEND", "torch")

#: The packages whose versions a recording names.
PACKAGES = {
    "torch": ["torch"],
    "optax": ["optax", "jax"],
    "keras": ["keras", "torch"],
    "transformers": ["transformers", "torch"],
    "pytorch_optimizer": ["pytorch_optimizer", "torch"],
}


def run(library: str, function: str, arguments: Arguments, w0: Any, gradients: Sequence[Any]) -> list[Any]:
    """The weights after each step."""
    return RUNNERS[library](function, arguments, w0, gradients)


def versions(library: str) -> dict[str, str]:
    return {package: metadata.version(package) for package in [*PACKAGES[library], "numpy"]}


def constructor(library: str, function: str) -> Any:
    """The library's own class or function."""
    if library == "torch":
        import torch

        return getattr(torch.optim, function)
    if library == "transformers":
        from transformers.optimization import Adafactor

        return {"Adafactor": Adafactor}[function]
    if library == "pytorch_optimizer":
        import pytorch_optimizer

        return getattr(pytorch_optimizer, function)
    if library == "keras":
        return getattr(_keras().optimizers, function)
    import optax

    return getattr(optax, function)


def _torch(function: str, arguments: Arguments, w0: Any, gradients: Sequence[Any], library: str) -> list[Any]:
    import torch

    # AdaFactor takes a torch dtype where the dialect takes its name, too.
    given = {k: getattr(torch, v) if k == "momentum_dtype" else v for k, v in arguments.items()}
    w = torch.nn.Parameter(torch.from_numpy(np.array(w0)))
    optimizer = constructor(library, function)([w], **given)
    weights = []
    for g in gradients:
        # A copy, since pytorch_optimizer's Shampoo writes into the gradient.
        w.grad = torch.from_numpy(np.array(g))
        if function == "SparseAdam":
            w.grad = w.grad.to_sparse(1)
        optimizer.step()
        weights.append(w.detach().numpy().copy())
    return weights


def _optax(function: str, arguments: Arguments, w0: Any, gradients: Sequence[Any]) -> list[Any]:
    import jax
    import optax

    # Without this, float64 parameters silently become float32.
    jax.config.update("jax_enable_x64", True)
    transform = getattr(optax, function)(**arguments)
    if function.startswith("scale_by"):
        transform = optax.chain(transform, optax.scale(-1.0))
    w, weights = jax.numpy.asarray(w0), []
    state = transform.init(w)
    for g in gradients:
        updates, state = transform.update(jax.numpy.asarray(g), state, w)
        w = optax.apply_updates(w, updates)
        weights.append(np.array(w))
    return weights


def _keras() -> Any:
    import keras

    return keras


def _run_keras(function: str, arguments: Arguments, w0: Any, gradients: Sequence[Any]) -> list[Any]:
    keras = _keras()
    before = keras.backend.floatx()
    # Keras keeps the learning rate in this dtype, float32 by default, also for float64 parameters.
    keras.backend.set_floatx(str(w0.dtype))
    try:
        optimizer = getattr(keras.optimizers, function)(**arguments)
        w, weights = keras.Variable(w0, dtype=str(w0.dtype)), []
        for g in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(g)], [w])
            weights.append(np.array(keras.ops.convert_to_numpy(w)))
    finally:
        keras.backend.set_floatx(before)
    return weights


RUNNERS: dict[str, Any] = {
    "torch": lambda *args: _torch(*args, library="torch"),
    "transformers": lambda *args: _torch(*args, library="transformers"),
    "pytorch_optimizer": lambda *args: _torch(*args, library="pytorch_optimizer"),
    "optax": _optax,
    "keras": _run_keras,
}
