"""Where a run's optimizer steps: on the model's own arrays, or on copies of them on a device.

The model is NumPy and stays on the host, so a device's run copies the gradients there and the parameters
back, in the open and in every step; the seconds of the optimizer are those of its step, to its last kernel.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import optree

from .. import backends
from ..parts.row_sparse import RowSparse


class Host:
    """The optimizer steps the model's own arrays."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def gradients(self, grads: Any) -> Any:
        """What the optimizer is given."""
        return grads

    def wait(self) -> None:
        """Return when the step is done."""

    def fetch(self) -> None:
        """Bring the model's parameters to where the optimizer's are."""


class Device(Host):
    """The optimizer steps arrays of CuPy, on its current device.

    Parameters
    ----------
    params : tree of arrays
        The model's, on the host; :attr:`params` are their copies on the device.
    """

    def __init__(self, params: Any) -> None:
        self._library = import_module("cupy")
        self._own = params
        super().__init__(optree.tree_map(self._library.asarray, params))

    def gradients(self, grads: Any) -> Any:
        """Copies on the device, row-sparse ones as such."""
        return optree.tree_map(self._there, grads)

    def _there(self, g: Any) -> Any:
        move = self._library.asarray
        return RowSparse(move(g.indices), move(g.rows), g.shape) if isinstance(g, RowSparse) else move(g)

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        self._library.cuda.get_current_stream().synchronize()

    def fetch(self) -> None:
        """Copy the device's parameters into the model's."""
        for own, there in zip(optree.tree_leaves(self._own), optree.tree_leaves(self.params), strict=True):
            own[...] = self._library.asnumpy(there)


def library_of(backend: str) -> str:
    """The library whose arrays a backend steps, as it is asked for here.

    Raises
    ------
    BackendError
        There is no such backend, or it cannot run here; the error says what to install.
    """
    name, source = backends.requested(backend)
    return "numpy" if name == "auto" else backends.registry.ready(name, source).library


def place(backend: str, params: Any) -> Host:
    """Where the optimizer of a run steps, for the model's parameters."""
    return Host(params) if library_of(backend) == "numpy" else Device(params)
