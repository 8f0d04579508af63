"""The chain holds with the fast kernels' own iterates."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from memopt_ref import backends
from memopt_ref.backends import Backend, Variant, numpy_ref, registry
from memopt_ref.cli import main
from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD
from memopt_ref.theory import games, kernels, suites
from memopt_ref.theory.bounds import get
from memopt_ref.theory.verify import HOLDS, verify


def memopt(*words):
    return CliRunner().invoke(main, ["verify", "run", "--suite", "kernels", *words])


def only(monkeypatch, name, step, *rules, numerics="bitwise"):
    """Exactly one fast backend, with one kernel for some rules."""
    variant = Variant(
        name=name,
        numerics=numerics,
        supports=lambda rule, shape, dtype: (type(rule) in rules, "" if type(rule) not in rules else "fits"),
        step=step,
    )
    monkeypatch.setitem(sys.modules, "memopt_test_kernels", SimpleNamespace(VARIANTS=(variant,)))
    known = {"numpy": registry.known("numpy", "a test")}
    monkeypatch.setattr(registry, "_importable", lambda module: True)
    fast = Backend("test", "numpy", "memopt_test_kernels", automatic=True)
    monkeypatch.setattr(registry, "_backends", {"test": fast, **known})


def right(rule, w, g, state):
    numpy_ref.step(rule, w, g, state)


def long(rule, w, g, state):
    before = w.copy()
    numpy_ref.step(rule, w, g, state)
    w += 0.1 * (w - before)


def last_bit(rule, w, g, state):
    numpy_ref.step(rule, w, g, state)
    w[...] = np.nextafter(w, np.inf)


def wrong_slot(rule, w, g, state):
    numpy_ref.step(rule, w, g, state)
    for name, slot in state.items():
        if np.ndim(slot):
            state[name][...] = np.nextafter(slot, np.inf)


def test_without_fast_kernels_there_is_nothing_to_play(monkeypatch):
    monkeypatch.setattr(registry, "_backends", {"numpy": registry.known("numpy", "a test")})
    assert suites.residuals() == []
    done = memopt()
    assert done.exit_code == 0
    assert "0 plays, 0 not as expected" in done.stdout


def test_a_right_kernel_holds_in_both_dtypes(monkeypatch):
    only(monkeypatch, "test.right", right, SGD, AdaGrad, Adam)
    entries = suites.residuals()
    assert {e.dtype for e in entries} == {"float32", "float64"}
    assert {e.bound.id for e in entries} >= {"ogd.tuned", "adagrad.mirror", "kernel.step"}
    records = list(suites.run(entries))
    assert all(r.ok for r in records), [r for r in records if not r.ok]
    for r in records:
        assert {name for name, _, _ in r.checks} >= {"residual", "bits"}
    assert any(r.player == "Adam by test.right" and r.bound == "kernel.step" for r in records)


@pytest.mark.parametrize(
    ("step", "checks"), [(long, {"residual", "bits", "metric"}), (last_bit, {"residual", "bits"})]
)
def test_a_kernel_that_steps_wrong_fails_and_its_residual_is_named(monkeypatch, step, checks):
    only(monkeypatch, "test.wrong", step, AdaGrad)
    done = memopt("--json")
    assert done.exit_code == 1
    records = json.loads(done.stdout)["records"]
    assert records
    for r in records:
        assert not r["ok"]
        assert r["player"] == "AdaGrad by test.wrong"
        broken = {text.partition(" (")[0] for text in r["broken"]}
        assert broken >= checks, (r["bound"], broken)
        assert any(text.startswith("residual (round 1)") for text in r["broken"])
    said = memopt("--bound", "adagrad.mirror")
    assert said.exit_code == 1
    assert "residual (round 1): H_t (y_t^ref - y_t) = 0" in said.stdout


def test_a_kernel_of_a_rule_without_a_theorem_is_caught_too(monkeypatch):
    only(monkeypatch, "test.wrong", long, Adam)
    records = list(suites.run(suites.residuals()))
    assert [r.bound for r in records] == ["kernel.step"] * 2
    assert all(r.verdict == "UNPROVEN" for r in records)
    assert all(any(text.startswith("residual") for text in r.broken) for r in records)


def test_a_slot_with_another_bit_is_caught(monkeypatch):
    only(monkeypatch, "test.wrong", wrong_slot, AdaGrad)
    (record, *_) = suites.run(suites.residuals())
    assert any(text.startswith("bits (round 1)") for text in record.broken)


def test_a_kernel_that_promises_no_bits_has_a_residual_of_rounding(monkeypatch):
    """Such a variant is not chosen by itself; the run serves it too."""
    fused = Variant(name="test.fma", numerics="fma", supports=lambda *a: (True, "fits"), step=last_bit)
    bound = kernels.OnKernel(get("adagrad.mirror"), "float32")
    choice = SimpleNamespace(variant=fused)
    monkeypatch.setattr(kernels, "select", lambda *a: choice)
    record = verify(bound, games.rademacher((3,)), 60, dtype=np.float32)
    assert record.verdict == HOLDS
    longer = SimpleNamespace(variant=dataclasses.replace(fused, step=long))
    monkeypatch.setattr(kernels, "select", lambda *a: longer)
    record = verify(bound, games.rademacher((3,)), 60, dtype=np.float32)
    assert any(text.startswith("residual (round 1)") for text in record.broken)


NUMBA = {row.name: row.available for row in backends.status()}["numba"]


@pytest.mark.skipif(not NUMBA, reason="no Numba here")
def test_the_compiled_kernels_hold_and_are_what_is_played(monkeypatch):
    chosen = [e for e in suites.residuals() if e.bound.id == "adagrad.mirror"]
    assert {e.dtype for e in chosen} == {"float32", "float64"}
    first = list(suites.run(chosen))
    assert all(r.ok and "numba" in r.player for r in first)

    def refuse(*a):
        raise AssertionError("the reference stepped in for the kernel")

    # The rounds are the compiled code's own: the reference as a kernel is not called.
    from memopt_ref.backends.numba_cpu import elementwise

    monkeypatch.setattr(elementwise.numpy_ref, "step", refuse)
    assert all(r.ok for r in suites.run(chosen))
