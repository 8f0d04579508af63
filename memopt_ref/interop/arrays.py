"""Arrays of other libraries in the functional form: viewed on the way in, given back in their own library.

``rule.init``, ``rule.update`` and ``rule.values`` are NumPy throughout. Where a leaf is another library's
array they come here once: every array is viewed (DLPack, else ``__array__``), the same method runs on NumPy,
and each leaf's results go to the library of its parameter. Nothing that came in is written; an array on a
device is refused, never copied to the host.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import tree
from ..errors import BackendError, ReadOnlyError

if TYPE_CHECKING:
    from ..rules.base import Rule, State

#: DLPack's codes of memory that the host can read: plain and pinned.
_HOST = (1, 3)


def as_numpy(x: Any, *, writeable: bool = False, where: str = "array") -> Any:
    """A NumPy array in the memory of ``x``, or with its values where the library offers no view.

    Parameters
    ----------
    x : array
        Anything with ``__dlpack__`` or ``__array__`` in host memory; a torch tensor may require a gradient
        or be bfloat16.
    writeable : bool
        Ask for an array that can be written; JAX arrays cannot.
    where : str
        What an error calls it.

    Raises
    ------
    BackendError
        ``x`` lies on a device, or cannot be viewed (a traced JAX array, a sparse tensor).
    ReadOnlyError
        ``writeable`` is asked for and the view is read-only.

    Examples
    --------
    >>> as_numpy(np.float32(1.5), where="w")
    array(1.5, dtype=float32)
    """
    array = _viewed(where, x)
    if writeable and not array.flags.writeable:
        advice = "Pass numpy.array(x), a copy, or use the functional form: rule.update."
        raise ReadOnlyError(where, f"a read-only view of {_kind(x)}", "an array that can be written", advice)
    return array


def _viewed(where: str, x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    if _is_tensor(x):
        from . import tensors

        return tensors.view(where, x)
    if not tree.is_foreign(x):
        wanted = "an array with __dlpack__ or __array__"
        raise BackendError(where, _kind(x), wanted, "Convert it with numpy.asarray.")
    _check_host(where, x)
    failure: Exception | None = None
    # DLPack never copies; but it has no bfloat16, and JAX gives that through __array__, also as a view.
    for name, convert in (("__dlpack__", np.from_dlpack), ("__array__", np.asarray)):
        if hasattr(x, name):
            try:
                array = convert(x)
            except Exception as error:
                failure = failure or error
            else:
                return array
    advice = "Inside jax.jit, use jax.pure_callback; otherwise convert it to a NumPy array yourself."
    raise BackendError(where, f"{_kind(x)} that NumPy cannot view", "a host array", advice) from failure


def _check_host(where: str, x: Any) -> None:
    try:
        device = x.__dlpack_device__()
    except Exception:
        # No DLPack, or no device yet (a traced array): the conversion itself will tell.
        return
    if int(device[0]) not in _HOST:
        place = getattr(x, "device", "a device")
        advice = "Copy it yourself: a device array is never copied to the host silently."
        raise BackendError(where, f"{_kind(x)} on {place}", "an array in host memory", advice)


def gradient_as_numpy(where: str, g: Any) -> Any:
    """A gradient for NumPy: a view, a RowSparse for a sparse tensor of torch, or what it was."""
    if not tree.is_foreign(g):
        return g
    if _is_tensor(g):
        from . import tensors

        return tensors.gradient(where, g)
    return as_numpy(g, where=where)


def in_library_of(x: Any, array: Any) -> Any:
    """``array`` as an array of the library (and device) of ``x``, bit for bit.

    NumPy scalars (counters, seeds) stay what they are, as does an array of a dtype that the library does not
    have. A library that says no way to make its arrays (no ``__array_namespace__``) gets NumPy's.
    """
    if not isinstance(array, np.ndarray) or not tree.is_foreign(x):
        return array
    if _is_tensor(x):
        from . import tensors

        return tensors.tensor(array)
    if (namespace := _namespace(x)) is None:
        return array
    try:
        # JAX without 64-bit types would warn and truncate.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = namespace.asarray(array, device=x.device)
    except (TypeError, ValueError):
        return array
    return made if _same_dtype(made, array) else array


def _namespace(x: Any) -> ModuleType | None:
    ask = getattr(x, "__array_namespace__", None)
    return None if ask is None else ask()


def _same_dtype(made: Any, array: Any) -> bool:
    return bool(as_numpy(made).dtype == array.dtype)


def _is_tensor(x: Any) -> bool:
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return isinstance(kind, type) and isinstance(x, kind)


def _kind(x: Any) -> str:
    return f"a {type(x).__module__.partition('.')[0]}.{type(x).__qualname__}"


# The three entries of rules/base.py


def init(rule: Rule, params: Any) -> State:
    """``rule.init`` for parameters of any library; every leaf's slots are in the library of its parameter."""
    flat = tree.flatten(params)
    state = rule.init({path: _parameter(path, w) for path, w in flat.leaves.items()})
    leaves = {path: _home(flat.leaves[path], leaf) for path, leaf in state["leaves"].items()}
    return {"step": state["step"], "leaves": leaves}


def update(rule: Rule, params: Any, grads: Any, state: State) -> tuple[Any, State]:
    """``rule.update`` for arrays of any library, mixed as one likes; untouched leaves are the old objects."""
    flat = tree.flatten(params)
    gradients = tree.align(flat, grads)
    old = {path: state["leaves"][path] for path in flat.leaves}
    new_w, new = rule.update(
        {path: _parameter(path, w) for path, w in flat.leaves.items()},
        {path: gradient_as_numpy(path or "gradient", g) for path, g in gradients.items()},
        {"step": state["step"], "leaves": {path: _numpy_state(path, leaf) for path, leaf in old.items()}},
    )
    for path, w in flat.leaves.items():
        if gradients[path] is None:
            new_w[path], new["leaves"][path] = w, dict(old[path])
        else:
            new_w[path] = in_library_of(w, new_w[path])
            new["leaves"][path] = _home(w, new["leaves"][path])
    return flat.rebuild(new_w), new


def values(rule: Rule, w: Any, g: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """``rule.values`` for one tensor of any library; every array is in the library of ``w``."""
    found = rule.values(_parameter("", w), gradient_as_numpy("gradient", g), _numpy_state("", state))
    return _home(w, found)


def _parameter(path: str, w: Any) -> Any:
    return as_numpy(w, where=path or "parameter") if tree.is_foreign(w) else w


def _numpy_state(path: str, leaf: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _slot(f"{path or 'state'}: slot {name!r}", value) for name, value in leaf.items()}


def _slot(where: str, value: Any) -> Any:
    if not tree.is_foreign(value):
        return value
    array = as_numpy(value, where=where)
    # A counter that went through another library's tree functions is a host scalar again.
    return array[()] if array.ndim == 0 and array.dtype.kind in "iu" else array


def _home(w: Any, leaf: Mapping[str, Any]) -> dict[str, Any]:
    return {name: in_library_of(w, value) for name, value in leaf.items()}
