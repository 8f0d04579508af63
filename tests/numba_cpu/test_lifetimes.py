"""Memory that compiled code makes for itself lives as long as its address is used.

Numba gives an array back after its last use by name, and code that knows only an address is no such use. What
was given back usually still holds what it held, so that no comparison of results shows it reliably. So the
text of every compiled function is looked at.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

from memopt_ref.backends import numba_cpu

numba = pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu.memory import as_int64, hold  # noqa: E402
from memopt_ref.backends.numba_cpu.options import STRICT  # noqa: E402

FOLDER = Path(numba_cpu.__file__).parent
MAKERS = {"empty", "zeros", "ones", "full", "empty_like", "zeros_like", "copy"}
#: Modules whose functions are run by Python, which keeps a variable until the function ends.
INTERPRETED = ("_engine.py", "sm3_together.py", "largest.py", "direct.py", "panels.py", "spread.py")


def is_compiled(function: ast.FunctionDef, path: Path) -> bool:
    decorated = any("njit" in ast.unparse(one) for one in function.decorator_list)
    return decorated or not path.name.endswith(INTERPRETED)


def made(function: ast.FunctionDef) -> set[str]:
    """Names of the arrays that a function makes."""
    names = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if both else [(target, value)]
        for name, expression in pairs:
            call = expression if isinstance(expression, ast.Call) else None
            if call and isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS:
                names.add(ast.unparse(name))
    return names


def forgotten(path: Path, text: str) -> list[str]:
    """The arrays whose address a compiled function takes without holding them."""
    found = []
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef) or not is_compiled(function, path):
            continue
        nodes = list(ast.walk(function))
        addresses = [
            node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "ctypes"
        ]
        taken = {ast.unparse(x.value if isinstance(x, ast.Subscript) else x) for x in addresses}
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "hold"]
        held = {ast.unparse(call.args[0]) for call in calls}
        found += [f"{path.name}: {function.name}: {x}" for x in sorted(taken & made(function) - held)]
    return found


def test_every_array_whose_address_is_taken_is_held():
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
    assert [line for path, text in texts.items() for line in forgotten(path, text)] == []
    # Each of them is seen to be needed by this test.
    holding = [path for path, text in texts.items() if "    hold(" in text]
    assert len(holding) >= 6
    for path in holding:
        assert forgotten(path, texts[path].replace("    hold(", "    print("))


def filled(n, held):
    x = np.empty(n, np.int64)
    address = x.ctypes.data
    for i in range(n):
        x[i] = 7
    y = np.zeros(n, np.int64)
    seen = as_int64(address)[n // 2] + y[0]
    if held:
        hold(x)
    return seen


def test_an_array_that_is_held_is_not_given_back_and_another_one_is():
    without = (
        inspect.getsource(filled).replace("    if held:\n        hold(x)\n", "").replace("filled", "unheld")
    )
    namespace = {"np": np, "as_int64": as_int64}
    exec(without, namespace)
    kept, given_back = numba.njit(**STRICT)(filled), numba.njit(**STRICT)(namespace["unheld"])
    assert [kept(n, True) for n in (100, 1000, 10000)] == [7, 7, 7]
    # The next array takes its place.
    assert 0 in [given_back(n, True) for n in (100, 1000, 10000)]
