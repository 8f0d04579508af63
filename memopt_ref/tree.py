"""Trees of arrays: nested dicts, lists, tuples and named tuples, by paths such as ``"layer/0/kernel"``.

The keys of everything that is stored are these paths, never positions. A single array is a tree whose only
path is the empty string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import optree

from .errors import StructureError


@dataclass(frozen=True)
class Flat:
    """A flattened tree: ``leaves`` by path, and the structure to put others in their place."""

    leaves: dict[str, Any]
    structure: Any

    def rebuild(self, leaves: dict[str, Any]) -> Any:
        """A tree of the same structure with other leaves."""
        return optree.tree_unflatten(self.structure, [leaves[path] for path in self.leaves])


def flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None, where: str = "parameters") -> Flat:
    """Flatten a tree; ``None`` counts as a leaf, dict keys are sorted.

    Raises
    ------
    StructureError
        Two leaves have the same path, such as ``{"a": {"b": x}, "a/b": y}``.

    Examples
    --------
    >>> flatten({"b": [1, 2], "a": 3}).leaves
    {'a': 3, 'b/0': 1, 'b/1': 2}
    """
    paths, leaves, structure = optree.tree_flatten_with_path(tree, is_leaf=is_leaf, none_is_leaf=True)
    by_path: dict[str, Any] = {}
    for path, leaf in zip(paths, leaves, strict=True):
        name = "/".join(map(str, path))
        if name in by_path:
            advice = "Rename one key: a path joins keys with '/'."
            raise StructureError(name, f"two {where} with this path", "distinct paths", advice)
        by_path[name] = leaf
    return Flat(by_path, structure)


def align(params: Flat, other: Any, what: str = "gradients") -> dict[str, Any]:
    """Leaves of ``other`` by the paths of ``params``; both trees must have the same paths.

    Raises
    ------
    StructureError
        A path is missing or extra; the message names the first ones.
    """
    leaves = flatten(other, where=what).leaves
    missing = [p for p in params.leaves if p not in leaves]
    extra = [p for p in leaves if p not in params.leaves]
    if missing or extra:
        got = "; ".join(
            f"{word} {', '.join(map(repr, paths[:3]))}"
            + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
            for word, paths in (("missing", missing), ("extra", extra))
            if paths
        )
        advice = "Pass a tree of the same structure; a leaf without a gradient is None."
        raise StructureError(what, got, f"the {len(params.leaves)} paths of the parameters", advice)
    return {path: leaves[path] for path in params.leaves}


def is_foreign(leaf: Any) -> bool:
    """Whether this is an array of another library than NumPy: it has ``__dlpack__`` or ``__array__``.

    >>> is_foreign(np.ones(2)), is_foreign(np.float32(1)), is_foreign(None)
    (False, False, False)
    """
    return _is_foreign(type(leaf))


def _is_foreign(kind: type) -> bool:
    own = issubclass(kind, np.ndarray | np.generic)
    return not own and (hasattr(kind, "__dlpack__") or hasattr(kind, "__array__"))


def elsewhere(*leaves: Iterable[Any]) -> ModuleType | None:
    """None if no leaf is foreign; otherwise :mod:`memopt_ref.interop.arrays`, which serves such trees."""
    # A tree has many leaves and few types: this costs a tree of NumPy arrays next to nothing.
    if not any(map(_is_foreign, set(map(type, chain.from_iterable(leaves))))):
        return None
    from .interop import arrays

    return arrays
