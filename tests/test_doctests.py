"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import types

import pytest


def public_modules() -> list[str]:
    names = ["memopt_ref"]
    for package in ("memopt_ref", "memopt_ref.backends", "memopt_ref.theory"):
        path = importlib.import_module(package).__path__
        names += [package, *(m.name for m in pkgutil.walk_packages(path, package + "."))]
    return sorted({name for name in names if not name.endswith("__main__")})


def failures(module: types.ModuleType) -> tuple[int, str]:
    """How many examples fail, and the report."""
    lines: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    failed = sum(runner.run(test, out=lines.append).failed for test in doctest.DocTestFinder().find(module))
    return failed, "".join(lines)


@pytest.mark.parametrize("name", public_modules())
def test_examples_print_what_they_say(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("memopt_ref"):
            raise
        pytest.skip(f"{missing.name} is not installed")
    failed, report = failures(module)
    assert failed == 0, report


def test_a_wrong_example_is_noticed():
    module = types.ModuleType("wrong")
    module.__doc__ = ">>> 1 + 1\n3\n"
    failed, report = failures(module)
    assert failed == 1
    assert "Expected:\n    3\nGot:\n    2" in report


def test_the_walk_reaches_all_rooms():
    names = public_modules()
    for room in (
        "memopt_ref.rules.adam",
        "memopt_ref.parts.slots",
        "memopt_ref.cli.plan",
        "memopt_ref.backends",
    ):
        assert room in names
