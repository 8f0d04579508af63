"""Row-sparse gradients on a device, from their making to the step: see :mod:`.stand_in`."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import count_sketch_rows, gradients, prepare
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.errors import BackendError, NonFiniteError, RowIndexError, ShapeError, StabilityError
from memopt_ref.parts.fixed_hashes import LegacyHash
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import KernelError, SimulatedDevice
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import Stand, install, on_device, plain
from tests.numba_cpu.inputs import same_bits
from tests.table import dtype_of

pytestmark = simulated


@pytest.fixture
def cupy(monkeypatch):
    """A module ``cupy`` whose arrays are stand-ins."""
    with instead(SimulatedDevice()):
        yield install(monkeypatch)


SHAPE = (30, 8)
RULES = {
    "sgd": mo.SGD(momentum=0.9),
    "adamw": mo.AdamW(weight_decay=0.1),
    "sm3": mo.SM3(),
    "sm3-overwrite": mo.SM3(beta2=0.9),
    "adafactor": mo.Adafactor(),
    "row-wise": mo.RowWiseAdaGrad(),
    "sketch": mo.CountSketchAdam(),
    "sketch-row": mo.CountSketchMomentum(delta_from="row", width=30, hash=LegacyHash()),
    "sketch-sum": mo.CountSketchAdaGrad(weight_decay=0.1, weight_decay_mode="decoupled"),
}
EACH = [pytest.param(rule, id=name) for name, rule in RULES.items()]
INDICES = (
    np.array([3, 7, 21]),
    np.array([21, 3, 7, 3, 3]),
    np.array([], np.int64),
    np.array([29, 0], np.uint8),
)


def rows(k, seed, dtype="float32"):
    return np.random.default_rng(seed).standard_normal((k, *SHAPE[1:])).astype(dtype_of(dtype))


def there(g):
    return RowSparse(on_device(g.indices), on_device(g.rows), g.shape)


def optimizers(rule, dtype="float32", **options):
    w = np.random.default_rng(0).standard_normal(SHAPE).astype(dtype_of(dtype))
    dense = np.random.default_rng(1).standard_normal(5).astype(np.float32)
    host, device = {"w": w, "b": dense}, {"w": on_device(w), "b": on_device(dense)}
    groups = [("b", mo.SGD())]
    return (
        mo.Optimizer(host, rule, groups=groups, backend="numpy", **options),
        mo.Optimizer(device, rule, groups=groups, **options),
    )


def assert_alike(host, device):
    for name, w in host.params.items():
        assert same_bits(plain(device.params[name]), w), name
        for slot, x in host.state["leaves"][name].items():
            assert same_bits(plain(device.state["leaves"][name][slot]), x), (name, slot)


def both_step(host, device, g, **options):
    bias = np.arange(5, dtype=np.float32)
    far = there(g) if isinstance(g, RowSparse) else on_device(g)
    applied = device.step({"w": far, "b": on_device(bias)}, **options)
    assert applied == host.step({"w": g, "b": bias}, **options)
    assert_alike(host, device)


@pytest.mark.parametrize("rule", EACH)
def test_steps_have_the_references_bits_duplicates_or_not(cupy, rule):
    host, device = optimizers(rule)
    assert "cupy" in device.explain()
    for seed, indices in enumerate(INDICES):
        both_step(host, device, RowSparse(indices, rows(indices.size, seed), SHAPE))
    dense = rows(SHAPE[0], 9)
    dense[::3] = 0
    both_step(host, device, dense)


@pytest.mark.parametrize(
    "options", [{"max_norm": 0.5}, {"nonfinite": "zero"}, {"nonfinite": "skip"}], ids=str
)
@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float32", "float64"), ("bfloat16", "float16")])
def test_scale_policy_and_clipping_have_the_hosts_bits(cupy, dtypes, options):
    host, device = optimizers(mo.SM3(), dtypes[0], **options)
    for seed, indices in enumerate(INDICES):
        g = RowSparse(indices, rows(indices.size, seed, dtypes[1]), SHAPE)
        both_step(host, device, g)
        both_step(host, device, g, scale=1 / 3)
    if "nonfinite" in options:
        g.rows[1, 2] = np.inf
        both_step(host, device, g, scale=1 / 3)


def test_dense_gradients_that_the_cast_changes_are_clipped_as_on_the_host(cupy):
    w, g = np.ones(300, np.float32), np.random.default_rng(3).standard_normal(300)
    host, device = (
        mo.Optimizer(w.copy(), mo.SGD(), max_norm=0.1, backend="numpy"),
        mo.Optimizer(on_device(w), mo.SGD(), max_norm=0.1),
    )
    assert host.step(g) == device.step(on_device(g))
    assert same_bits(plain(device.params), host.params)


def test_sums_that_overflow_are_found_before_the_step(cupy):
    _, device = optimizers(mo.SGD())
    g = RowSparse(on_device([2, 2]), on_device(np.full((2, 8), 3e38, np.float32)), SHAPE)
    with pytest.raises(NonFiniteError, match="w: got a gradient with entries that are not finite"):
        device.step({"w": g, "b": None})
    assert device.step_count == 0


def test_what_is_wrong_with_device_rows_is_said_where_they_are_made(cupy):
    table = on_device(rows(2, 0))
    for bad in ([0, 30], [-1, 2]):
        with pytest.raises(RowIndexError, match=rf"got row {bad[0] if bad[0] < 0 else 30}; wanted rows in"):
            RowSparse(on_device(bad), table, SHAPE)
    with pytest.raises(RowIndexError, match="1-d integer"):
        RowSparse(on_device([0.0, 1.0]), table, SHAPE)
    with pytest.raises(ShapeError, match="rows of shape"):
        RowSparse(on_device([0, 1, 2]), table, SHAPE)
    with pytest.raises(BackendError, match="indices and rows in two places"):
        RowSparse(np.array([0, 1]), table, SHAPE)
    far = on_device(np.array([0, 1]))
    far.number = 1
    with pytest.raises(BackendError, match="both on one device"):
        RowSparse(far, table, SHAPE)


def test_nothing_is_copied_between_host_and_device(cupy):
    host, device = optimizers(mo.SM3())
    g = RowSparse(np.array([3, 3]), rows(2, 0), SHAPE)
    made = there(g)
    assert type(made.indices) is type(made.rows) is Stand
    with pytest.raises(BackendError, match=r"w: got a numpy.ndarray; .*cupy.asarray"):
        device.step({"w": g, "b": None})
    with pytest.raises(BackendError, match=r"w: got a .*Stand"):
        host.step({"w": made, "b": None})
    for call in (made.coalesced, made.to_dense):
        with pytest.raises(BackendError, match="rows on a device"):
            call()
    assert device.step_count == host.step_count == 0


def test_rows_in_a_parameters_memory_are_copied_first(cupy):
    w = np.arange(12, dtype=np.float32).reshape(4, 3)
    host, there_w = w.copy(), on_device(w)
    g = RowSparse(on_device([3, 0]), there_w[:2], (4, 3))
    mo.Optimizer({"w": there_w}, mo.SGD()).step({"w": g})
    mo.Optimizer({"w": host}, mo.SGD(), backend="numpy").step(
        {"w": RowSparse(np.array([3, 0]), host[:2], (4, 3))}
    )
    assert same_bits(plain(there_w), host)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_step_that_would_diverge_is_refused_before_any_leaf_is_written(cupy, sparse):
    rule = mo.CountSketchMomentum(delta_from="row", width=1, momentum=0.5)
    host, device = optimizers(rule)
    g = RowSparse(np.arange(6), rows(6, 0), SHAPE)
    bias = np.ones(5, np.float32)
    before = plain(device.params["b"]).copy()
    for opt, grads in (
        (host, {"w": g if sparse else g.to_dense(), "b": bias}),
        (device, {"w": there(g) if sparse else on_device(g.to_dense()), "b": on_device(bias)}),
    ):
        with pytest.raises(StabilityError, match="w: got 6 active rows in one of 1 buckets"):
            opt.step(grads)
    assert same_bits(plain(device.params["b"]), before)
    both_step(host, device, RowSparse(np.arange(3), rows(3, 0), SHAPE))


# Mistakes, each of which a comparison above notices


def unchecked_order(monkeypatch):
    monkeypatch.setattr(RowSparse, "is_coalesced", True)


def scaled_after_the_sum(monkeypatch):
    def apart(w, g, scale=1.0, apart=gradients.apart):
        found, indices = apart(w, g)
        return prepare.prepared(found, w.dtype, scale, False, 1.0), indices

    monkeypatch.setattr(gradients, "apart", apart)


def zeroed_before_the_sum(monkeypatch):
    def apart(w, g, scale=1.0, apart=gradients.apart):
        return apart(w, RowSparse(g.indices, on_device(np.nan_to_num(g.rows, posinf=0)), g.shape), scale)

    monkeypatch.setattr(gradients, "apart", apart)


def not_clipped(monkeypatch):
    monkeypatch.setattr(gradients.Gradients, "clip", lambda self, max_norm: None)


def one_gradient():
    host, device = optimizers(mo.SGD(learning_rate=1.0), nonfinite="zero", max_norm=100.0)
    g = RowSparse(INDICES[1], rows(5, 1) * np.float32(1e3), SHAPE)
    g.rows[3, 2] = np.inf
    both_step(host, device, g, scale=1 / 3)


@pytest.mark.parametrize("spoil", [unchecked_order, scaled_after_the_sum, zeroed_before_the_sum, not_clipped])
def test_a_mistake_is_noticed(cupy, spoil, monkeypatch):
    one_gradient()
    spoil(monkeypatch)
    with pytest.raises((AssertionError, KernelError)):
        one_gradient()


def test_a_step_that_is_not_asked_first_would_be_noticed(cupy, monkeypatch):
    monkeypatch.setattr(count_sketch_rows, "active_rows", lambda *arguments: np.zeros(0, np.int64))
    with pytest.raises(AssertionError):
        test_a_step_that_would_diverge_is_refused_before_any_leaf_is_written(cupy, False)
