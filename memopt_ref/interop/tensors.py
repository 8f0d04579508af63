"""Tensors of torch as NumPy arrays in the same memory, and back.

torch has no bfloat16 for NumPy, neither by ``numpy()`` nor by DLPack: such tensors go as int16 of the same
bytes. A tensor that requires a gradient is detached, which shares its memory.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from ..errors import BackendError, DtypeError
from ..parts.row_sparse import RowSparse
from ..parts.slots import compute_dtype

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def check_host(where: str, t: Any) -> None:
    """Raise BackendError unless the tensor lies in host memory."""
    if t.device.type != "cpu":
        advice = (
            "Copy it yourself with .cpu(), or step it in place with memopt_ref.interop.torch.Optimizer: "
            "nothing is copied to the host silently."
            if t.device.type == "cuda"
            else "This release has no kernels for it, and nothing is copied to the host silently: "
            "keep the model on the CPU or a CUDA device, or step it with another optimizer."
        )
        raise BackendError(where, f"a torch.Tensor on {t.device}", "a tensor on the CPU", advice)


def check_shaped(where: str, t: Any) -> None:
    """Raise BackendError for a parameter that has no shape before the model has run."""
    if torch.nn.parameter.is_lazy(t):
        advice = "Run the model once before the optimizer is made."
        raise BackendError(where, "a parameter without a shape yet", "one with a shape", advice)


def view(where: str, t: Any) -> Any:
    """A NumPy array in the memory of a dense tensor; what is written into one is seen in the other.

    Examples
    --------
    >>> t = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    >>> view("w", t)[0] = 1.5
    >>> t
    tensor([1.5000, 0.0000], dtype=torch.bfloat16, requires_grad=True)
    """
    check_host(where, t)
    check_shaped(where, t)
    try:
        plain = t.detach()
        if plain.dtype == torch.bfloat16:
            return plain.view(torch.int16).numpy().view(_BFLOAT16)
        return plain.numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        got = f"a {type(t).__name__} of {t.dtype} and layout {t.layout} that NumPy cannot view"
        raise BackendError(where, got, "a plain dense tensor", "Make it dense and plain first.") from error


def tensor(array: Any) -> Any:
    """A tensor in the memory of a NumPy array, of the same dtype.

    Raises
    ------
    DtypeError
        torch has no such dtype.

    Examples
    --------
    >>> tensor(np.arange(2, dtype=np.uint64))
    tensor([0, 1], dtype=torch.uint64)
    """
    array = np.asarray(array)
    # torch has neither read-only tensors nor negative strides.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        advice = "Keep it in NumPy."
        raise DtypeError("tensor", f"an array of dtype {array.dtype}", "a dtype of torch", advice) from error


def gradient(where: str, g: Any) -> Any:
    """A gradient as a view, or as a RowSparse if it is a sparse tensor (COO or CSR).

    A COO tensor need not be coalesced: equal indices are summed in the order in which they occur. One that
    is sparse in single entries is gathered into the rows that have any.

    Examples
    --------
    >>> g = torch.sparse_coo_tensor([[2, 0]], torch.ones(2, 1), (3, 1), check_invariants=True)
    >>> gradient("w", g).indices
    array([2, 0])
    """
    check_host(where, g)
    shape = tuple(g.shape)
    if g.layout == torch.sparse_csr and g.dim() == 2:
        indptr, indices, entries = (view(where, x) for x in (g.crow_indices(), g.col_indices(), g.values()))
        return RowSparse.from_csr(indptr, indices, entries, shape)
    if g.layout != torch.sparse_coo:
        return view(where, g)
    if g.sparse_dim() == 0:
        return view(where, g.to_dense())
    plain = g.detach()
    indices, entries = view(where, plain._indices()), view(where, plain._values())
    if plain.sparse_dim() == 1:
        return RowSparse(indices[0], entries, shape)
    rows, place = np.unique(indices[0], return_inverse=True)
    gathered = np.zeros((rows.size, *shape[1:]), compute_dtype(entries.dtype))
    np.add.at(gathered, (place, *indices[1:]), entries.astype(gathered.dtype, copy=False))
    return RowSparse(rows, gathered, shape)
