"""The optimizer itself on the simulated device: the kernels that ship, from its groups to its last bit."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import Simulated, simulated
from tests.numba_cpu.inputs import hard, same_bits

pytestmark = simulated


@pytest.fixture
def backend(monkeypatch):
    """The GPU's kernels as a backend for NumPy arrays, which the simulated device steps."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    backends.register(backends.Backend("simulated", "numpy", "memopt_ref.backends.cupy_gpu"))
    yield "simulated"
    backends.unregister("simulated")


def model(seed):
    shapes = {
        "embedding": (50, 12),
        "layer": {"weight": (33, 20), "bias": (33,)},
        "conv": (4, 3, 3, 3),
        "scale": (),
    }

    def made(shape):
        return (
            {k: made(x) for k, x in shape.items()}
            if isinstance(shape, dict)
            else hard(shape, seed=seed, share=0)
        )

    return made(shapes)


def run(backend, steps=3, **options):
    params = model(0)
    groups = [
        ("*bias", mo.SGD(momentum=0.9)),
        ("embedding", mo.SM3(learning_rate=0.5)),
        ("conv", mo.SM3(momentum=0.9)),
    ]
    opt = mo.Optimizer(params, mo.AdamW(weight_decay=0.1), backend=backend, groups=groups, **options)
    for k in range(steps):
        grads = model(k + 1)
        if k == 1:
            grads["embedding"] = mo.RowSparse(np.array([3, 7, 3]), hard((3, 12), seed=k, share=0), (50, 12))
        opt.step(grads)
    return opt, params


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"nonfinite": "zero"}], ids=str)
def test_training_has_the_bits_of_the_reference(options, backend):
    device = SimulatedDevice("check", processors=2)
    with Simulated.on(device).running():
        opt, params = run(backend, **options)
    expected, expected_params = run("numpy", **options)
    assert "cupy.elementwise" in opt.explain()
    assert "cupy.sm3" in opt.explain()
    assert "numpy_ref" not in opt.explain()
    assert {"sm3", "sm3_finish", "sm3_least", "sm3_fold"} < set(device.launches)
    assert ("adam_table" in device.launches) == (not options)
    for (path, leaf), (_, other) in zip(flat(params), flat(expected_params), strict=True):
        assert same_bits(leaf, other), path
    for path, slots in expected.state["leaves"].items():
        for name, value in slots.items():
            assert same_bits(opt.state["leaves"][path][name], value), (path, name)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_any_setting_of_the_kernels_has_the_same_bits(seed, backend, monkeypatch):
    monkeypatch.setenv("MEMOPT_TUNE", "random")
    monkeypatch.setenv("MEMOPT_TUNE_SEED", seed)
    with Simulated("check").running():
        opt, params = run(backend, steps=2)
    assert "was drawn at random" in opt.explain()
    _, expected_params = run("numpy", steps=2)
    for (path, leaf), (_, other) in zip(flat(params), flat(expected_params), strict=True):
        assert same_bits(leaf, other), path


def flat(tree, path=""):
    if isinstance(tree, dict):
        return [pair for name, child in tree.items() for pair in flat(child, f"{path}/{name}")]
    return [(path, tree)]


def test_small_leaves_of_a_rule_share_a_launch(backend):
    device = SimulatedDevice("check")
    params = {f"w{k}": hard((k,), seed=k, share=0) for k in range(1, 30)}
    grads = {path: np.ones_like(w) for path, w in params.items()}
    with Simulated.on(device).running():
        mo.Optimizer(params, mo.Adam(), backend=backend).step(grads)
    assert len(device.launches) <= 3
    assert set(device.launches) == {"adam_table"}
