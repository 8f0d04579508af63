"""The functional form on arrays of JAX and on plain tensors of torch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.errors import BackendError
from tests.table import all_cases

pytestmark = pytest.mark.oracle

EACH = [pytest.param(case, id=case.name) for case in all_cases()]
SHAPE_OF = {
    case.name: max(case.shapes, key=lambda s: (len(s) == 2, np.prod(s, dtype=int))) for case in all_cases()
}


@pytest.fixture
def jnp():
    return pytest.importorskip("jax.numpy")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def image(tree, view):
    """dtype, shape and bytes of every leaf."""
    if isinstance(tree, dict):
        return {key: image(value, view) for key, value in tree.items()}
    array = view(tree)
    return (array.dtype.str, array.shape, array.tobytes())


def run(case, dtype, to, view, kind, steps=3):
    rng = np.random.default_rng(4)
    w = rng.standard_normal(SHAPE_OF[case.name]).astype(dtype)
    theirs, mine = to(w), w
    their_state, my_state = case.rule.init(theirs), case.rule.init(mine)
    for _ in range(steps):
        g = rng.standard_normal(w.shape).astype(dtype)
        old, before = theirs, image(theirs, view)
        theirs, their_state = case.rule.update(theirs, to(g), their_state)
        mine, my_state = case.rule.update(mine, g, my_state)
        assert isinstance(theirs, kind)
        assert image(old, view) == before
        assert image(theirs, view) == image(mine, np.asarray)
        assert image(their_state, view) == image(my_state, np.asarray)
    for name, value in my_state["leaves"][""].items():
        wanted = kind if isinstance(value, np.ndarray) else np.generic
        assert isinstance(their_state["leaves"][""][name], wanted)


@pytest.mark.parametrize("case", EACH)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_jax_arrays_come_back_as_jax_arrays_with_the_bits_of_numpy(jnp, case, dtype):
    import jax

    run(case, dtype, jnp.asarray, np.asarray, jax.Array)


@pytest.mark.parametrize("case", EACH)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_tensors_come_back_as_tensors_with_the_bits_of_numpy(torch, case, dtype):
    from memopt_ref.interop import tensors

    def view(x):
        return tensors.view("x", x) if isinstance(x, torch.Tensor) else np.asarray(x)

    run(case, dtype, lambda x: tensors.tensor(x.copy()), view, torch.Tensor)


def test_a_tree_of_jax_and_its_gradients_train(jnp):
    import jax

    x = jnp.linspace(-1, 1, 32)[:, None]
    params = {"w": jnp.zeros((1, 1)), "b": jnp.ones(1)}

    def loss(params):
        return jnp.mean((x @ params["w"] + params["b"] - 3 * x) ** 2)

    rule = mo.SM3(learning_rate=0.5)
    state, first = rule.init(params), float(loss(params))
    for _ in range(60):
        params, state = rule.update(params, jax.grad(loss)(params), state)
    assert float(loss(params)) < 1e-3 * first
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_the_state_of_jax_is_a_tree_of_jax(jnp):
    """It goes through jax's own tree functions and counts on; int64 counters stay, also without 64 bits."""
    import jax

    rule, w = mo.Adam(), jnp.ones(3)
    state = jax.tree.map(lambda leaf: leaf, rule.init(w))
    w2, state = rule.update(w, w, state)
    assert state["leaves"][""]["t"].dtype == np.int64
    assert isinstance(state["leaves"][""]["m"], jax.Array)
    on_device = jax.tree.map(jnp.asarray, {"m": state["leaves"][""]["m"], "v": state["leaves"][""]["v"]})
    again, _ = rule.update(w2, w, {"step": 1, "leaves": {"": {**on_device, "t": state["leaves"][""]["t"]}}})
    assert np.array_equal(again, rule.update(w2, w, state)[0])


def test_a_jitted_value_says_the_way_out(jnp):
    import jax

    with pytest.raises(BackendError, match=r"cannot view.*pure_callback"):
        jax.jit(lambda w: mo.SGD().init(w))(jnp.ones(3))


def test_the_way_out_works(jnp):
    import jax

    rule, w = mo.SGD(learning_rate=0.5), jnp.ones(3)

    def host(w, g):
        return np.asarray(rule.update(w, g, rule.init(w))[0])

    stepped = jax.jit(lambda w, g: jax.pure_callback(host, jax.ShapeDtypeStruct((3,), w.dtype), w, g))(w, w)
    assert stepped.tolist() == [0.5] * 3


def test_a_tensor_that_requires_a_gradient_and_sparse_ones_are_taken(torch):
    w = torch.ones(4, 2, requires_grad=True)
    rule = mo.AdaGrad(learning_rate=1.0)
    state = rule.init({"w": w})
    g = torch.sparse_coo_tensor([[2, 2]], torch.ones(2, 2), (4, 2), check_invariants=True)
    new, state = rule.update({"w": w}, {"w": g}, state)
    assert isinstance(new["w"], torch.Tensor)
    assert not new["w"].requires_grad
    assert new["w"].tolist() == [[1, 1], [1, 1], [0, 0], [1, 1]]
    assert w.tolist() == [[1, 1]] * 4
    rows = mo.RowSparse(torch.tensor([1]), torch.ones(1, 2, dtype=torch.bfloat16, requires_grad=True), (4, 2))
    assert rows.dtype == ml_dtypes.bfloat16
    with pytest.raises(BackendError, match="on meta"):
        rule.init({"w": torch.ones(3, device="meta")})
