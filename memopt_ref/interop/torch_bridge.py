"""Tensors of torch as arrays where they lie: NumPy's in the host's memory, CuPy's on a GPU.

On a GPU everything stays there: parameters, gradients and slots are views of one memory by DLPack, and the
kernels run on the device and the stream that torch uses at that moment. What leads there is one small object,
a :class:`Bridge`, so that a test can put another in its place; the tests of this project have no GPU, and
what they cannot show is DLPack's and CuPy's part: that both see one memory, and in the order of the stream.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import torch

from .. import backends
from ..errors import BackendError
from ..parts.row_sparse import RowSparse
from ..parts.slots import compute_dtype
from . import tensors

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Bridge(Protocol):
    """The way to a device and back; neither direction copies anything."""

    def has(self, t: Any) -> bool:
        """Whether a tensor, dense or sparse, lies on such a device."""

    def check(self, where: str, t: Any) -> None:
        """Raise BackendError, with what to install, if the way is closed."""

    def array(self, t: Any) -> Any:
        """An array of the device in the memory of a plain dense tensor."""

    def tensor(self, array: Any) -> Any:
        """A tensor in the memory of an array of the device."""

    def running(self, t: Any) -> contextlib.AbstractContextManager[Any]:
        """The device of a tensor and torch's current stream on it, for arrays and kernels alike."""


class CuPyBridge:
    """By DLPack to CuPy's arrays and back."""

    def has(self, t: Any) -> bool:
        """Whether a tensor lies on a CUDA device."""
        return bool(t.device.type == "cuda")

    def check(self, where: str, t: Any) -> None:
        """Raise BackendError if CuPy or the driver is missing."""
        try:
            backends.registry.ready("cupy", where)
        except BackendError as error:
            got = f"a torch.Tensor on {t.device}"
            wanted = "CuPy, whose kernels step tensors on a GPU"
            raise BackendError(where, got, wanted, error.advice) from error

    def array(self, t: Any) -> Any:
        """The view that CuPy makes of it."""
        import cupy

        return cupy.from_dlpack(t)

    def tensor(self, array: Any) -> Any:
        """The view that torch makes of it; the memory goes back to CuPy's pool with the last view."""
        return torch.from_dlpack(array)

    @contextlib.contextmanager
    def running(self, t: Any) -> Iterator[None]:
        """CuPy's current device and stream are torch's."""
        import cupy

        stream = torch.cuda.current_stream(t.device)
        number = int(t.device.index)
        with cupy.cuda.Device(number), cupy.cuda.ExternalStream(stream.cuda_stream, number):
            yield


_bridge: ContextVar[Bridge] = ContextVar("memopt_torch_bridge", default=CuPyBridge())  # noqa: B039


@contextlib.contextmanager
def instead(bridge: Bridge) -> Iterator[Bridge]:
    """Take this bridge in place of CuPy's, in this thread or task."""
    token = _bridge.set(bridge)
    try:
        yield bridge
    finally:
        _bridge.reset(token)


def bridge_of(t: Any) -> Bridge | None:
    """The bridge to where a tensor lies; None for the host, and for devices to which there is none."""
    bridge = _bridge.get()
    return bridge if bridge.has(t) else None


def check_one_place(leaves: Mapping[str, Any]) -> None:
    """Raise BackendError unless all tensors lie on one device, to which there is a way.

    Raises
    ------
    BackendError
        Two devices, or a device without kernels, or CuPy is not installed.
    """
    if not leaves:
        return
    first = next(iter(leaves.values()))
    for path, p in leaves.items():
        if p.device != first.device:
            got, wanted = f"a torch.Tensor on {p.device}", f"one on {first.device}, where the first one lies"
            advice = "Make an optimizer for each device: nothing is moved between them silently."
            raise BackendError(path, got, wanted, advice)
    if (bridge := bridge_of(first)) is not None:
        bridge.check(next(iter(leaves)), first)


def running(t: Any) -> contextlib.AbstractContextManager[Any]:
    """Where a step of this tensor and its neighbours runs."""
    bridge = None if t is None else bridge_of(t)
    return contextlib.nullcontext() if bridge is None else bridge.running(t)


def place(t: Any) -> tuple[Any, ...]:
    """Where a tensor lies and how it is read; where nothing leads there is no address."""
    here = t.device.type == "cpu" or bridge_of(t) is not None
    return t.device, t.data_ptr() if here else None, t.dtype, t.shape, t.stride()


def view(where: str, t: Any) -> Any:
    """An array in the memory of a dense tensor, of NumPy or of CuPy.

    Raises
    ------
    BackendError
        The tensor lies where there are no kernels, or is not a plain dense one.

    Examples
    --------
    >>> t = torch.zeros(2, requires_grad=True)
    >>> view("w", t)[0] = 1.5
    >>> t
    tensor([1.5000, 0.0000], requires_grad=True)
    """
    bridge = bridge_of(t)
    if bridge is None:
        return tensors.view(where, t)
    tensors.check_shaped(where, t)
    try:
        plain = t.detach()
        if plain.dtype == torch.bfloat16:
            # DLPack's own number for bfloat16 is not known to all; integers of the same bytes are.
            return bridge.array(plain.view(torch.int16)).view(_BFLOAT16)
        return bridge.array(plain)
    except (RuntimeError, TypeError, ValueError, BufferError) as error:
        got = f"a {type(t).__name__} of {t.dtype} and layout {t.layout} that CuPy cannot view"
        raise BackendError(where, got, "a plain dense tensor", "Make it dense and plain first.") from error


def tensor(array: Any) -> Any:
    """A tensor in the memory of an array; counters and seeds become tensors on the host.

    Examples
    --------
    >>> tensor(np.int64(3)), tensor(np.zeros(2, np.float32))
    (tensor(3), tensor([0., 0.]))
    """
    if backends.library_of(array) != "cupy":
        return tensors.tensor(array)
    bridge = _bridge.get()
    if array.dtype == _BFLOAT16:
        return bridge.tensor(array.view(np.int16)).view(torch.bfloat16)
    return bridge.tensor(array)


def gradient(where: str, g: Any) -> Any:
    """A gradient as an array, or as a RowSparse if it is a sparse tensor (COO or CSR); see ``tensors``.

    On a device, one that is sparse in single entries has to be coalesced, since a sum of its duplicates in a
    certain order is not to be had there.

    Raises
    ------
    BackendError
        It lies where there are no kernels, or has duplicates as above.
    """
    bridge = bridge_of(g)
    if bridge is None:
        return tensors.gradient(where, g)
    if g.layout == torch.sparse_csr:
        g = g.to_sparse_coo()
    if g.layout != torch.sparse_coo:
        return view(where, g)
    if g.sparse_dim() == 0:
        return view(where, g.to_dense())
    plain, shape = g.detach(), tuple(g.shape)
    indices, entries = view(where, plain._indices()), view(where, plain._values())
    if plain.sparse_dim() == 1:
        return RowSparse(indices[0], entries, shape)
    if not plain.is_coalesced():
        got, wanted = "a gradient sparse in single entries, not coalesced", "each entry once"
        raise BackendError(where, got, wanted, "Call .coalesce() on it, or make it dense.")
    return _gathered(indices, entries, shape)


def _gathered(indices: Any, entries: Any, shape: tuple[int, ...]) -> RowSparse:
    """The rows that have any entry, whole."""
    from ..backends.cupy_gpu.arrays import namespace, zeros

    rows, place = namespace(entries).unique(indices[0], return_inverse=True)
    gathered = zeros(entries, (rows.size, *shape[1:]), compute_dtype(entries.dtype))
    gathered[(place, *indices[1:])] = entries
    return RowSparse(rows, gathered, shape)


@functools.cache
def dtype_of(dtype: Any) -> Any:
    """NumPy's dtype for torch's.

    Examples
    --------
    >>> dtype_of(torch.bfloat16), dtype_of(torch.int16)
    (dtype(bfloat16), dtype('int16'))
    """
    return tensors.view("tensor", torch.empty(0, dtype=dtype)).dtype
