"""Any rule as an optimizer of torch: the bits of ``rule.update``, in torch's own memory."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.errors import (
    AliasError,
    BackendError,
    CheckpointMismatchError,
    DtypeError,
    HyperparameterError,
    MemoptError,
    NonFiniteError,
    StructureError,
    TornError,
)
from memopt_ref.parts.row_sparse import RowSparse
from tests.table import all_cases

torch = pytest.importorskip("torch")
from tests.interop.torch_runs import (  # noqa: E402
    DTYPES,
    EACH,
    array_of,
    bits_of_state,
    give_gradients,
    linear,
    optimizer_of,
    parameters,
    raw,
)

pytestmark = pytest.mark.oracle


def tree_of(params):
    return {f"0/{k}": array_of(p).copy() for k, p in enumerate(params)}


def assert_equals_update(rule, params, steps=3):
    optimizer = optimizer_of(params, rule)
    w, addresses = tree_of(params), [p.data_ptr() for p in params]
    state = rule.init(w)
    for step in range(steps):
        give_gradients(params, step)
        grads = {f"0/{k}": None if p.grad is None else array_of(p.grad).copy() for k, p in enumerate(params)}
        w, state = rule.update(w, grads, state)
        optimizer.step()
        for k, p in enumerate(params):
            assert raw(p) == w[f"0/{k}"].tobytes()
            for name, value in state["leaves"][f"0/{k}"].items():
                mine = optimizer.state[p][name]
                assert raw(mine) == np.asarray(value).tobytes()
                assert array_of(mine).dtype == np.asarray(value).dtype
                assert tuple(mine.shape) == np.shape(value)
    assert [p.data_ptr() for p in params] == addresses
    assert optimizer.param_groups[0]["step"] == steps


@pytest.mark.parametrize("case", EACH)
def test_a_step_has_the_bits_of_update(case):
    assert_equals_update(case.rule, parameters(case))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["adam", "sm3", "microadam-short", "sgd", "adafactor"])
def test_other_dtypes_too(name, dtype):
    case = next(case for case in all_cases() if case.name == name)
    assert_equals_update(case.rule, parameters(case, dtype))


def test_a_step_that_changes_one_bit_is_noticed(monkeypatch):
    step = numpy_ref.rows.RowStep.write

    def wrong(self, w, state):
        step(self, w, state)
        w[...] = np.nextafter(w, np.float32(9))

    monkeypatch.setattr(numpy_ref.rows.RowStep, "write", wrong)
    case = next(case for case in all_cases() if case.name == "adam")
    with mo.use_backend("numpy"), pytest.raises(AssertionError):
        assert_equals_update(case.rule, parameters(case))


def test_sparse_embeddings_are_stepped_on_their_rows():
    torch.manual_seed(0)
    table = torch.nn.Embedding(50, 4, sparse=True)
    rule = mo.SM3(learning_rate=0.5)
    w = table.weight.detach().numpy().copy()
    state, optimizer = rule.init(w), optimizer_of(table.parameters(), rule)
    for step in range(3):
        optimizer.zero_grad()
        words = torch.tensor([3, 7, 3, 49, step])
        (table(words) ** 2).sum().backward()
        g = table.weight.grad
        assert g.is_sparse
        assert not g.is_coalesced()
        given = RowSparse(g._indices()[0].numpy(), g._values().numpy().copy(), tuple(g.shape))
        w, state = rule.update(w, given, state)
        optimizer.step()
        assert raw(table.weight) == w.tobytes()
    touched = set(np.flatnonzero(optimizer.state[table.weight]["mu_0"].numpy() != 0))
    assert touched == {0, 1, 2, 3, 7, 49}


SPARSE = {
    "uncoalesced": lambda d: torch.sparse_coo_tensor(
        [[2, 0, 2]], torch.ones(3, 3), (4, 3), check_invariants=True
    ),
    "coalesced": lambda d: d.to_sparse(1),
    "single entries": lambda d: d.to_sparse(2),
    "csr": lambda d: d.to_sparse_csr(),
    "no sparse axis": lambda d: torch.sparse_coo_tensor(
        torch.empty(0, 1, dtype=torch.long), d[None], (4, 3), check_invariants=True
    ),
}


@pytest.mark.parametrize("form", SPARSE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_sparse_layout_is_the_gradient_that_it_means(form, dtype):
    from memopt_ref.interop import tensors

    dense = torch.tensor([[0.0, 2, 0], [0, 0, 0], [0, 0, 3], [4, 0, 5]], dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is in beta
        sparse = SPARSE[form](dense).to(DTYPES[dtype])
        expected = sparse.to_dense().float().numpy()
    found = tensors.gradient("w", sparse)
    found = found.to_dense() if isinstance(found, RowSparse) else found
    assert np.array_equal(found.astype(np.float32), expected)


def test_groups_override_hyper_parameters_and_carry_rules():
    body, head = linear(), linear()
    groups = [
        {"params": body.weight, "lr": 0.5, "betas": (0.5, 0.75)},
        {"params": [body.bias], "rule": mo.SGD(learning_rate=0.25)},
        {"params": head.parameters(), "weight_decay": 0.125, "name": "head"},
    ]
    optimizer = optimizer_of(groups, mo.Adam(learning_rate=0.125))
    first, second, third = optimizer.param_groups
    assert first["rule"] == mo.Adam(learning_rate=0.5, beta1=0.5, beta2=0.75)
    assert (second["lr"], set(optimizer.state[body.bias])) == (0.25, set())
    assert "betas" not in second
    assert (third["lr"], third["weight_decay"], third["name"]) == (0.125, 0.125, "head")
    params = [body.weight, body.bias, *head.parameters()]
    rules = [first["rule"], second["rule"], third["rule"], third["rule"]]
    paths = ["0/0", "1/0", "2/0", "2/1"]
    give_gradients(params, 0)
    expected = []
    for p, rule, path in zip(params, rules, paths, strict=True):
        w = {path: array_of(p).copy()}
        g = None if p.grad is None else p.grad.numpy()
        expected.append(rule.update(w, {path: g}, rule.init(w))[0][path].tobytes())
    optimizer.step()
    assert [raw(p) for p in params] == expected
    text = optimizer.explain()
    assert len(text.splitlines()) == 4
    assert "SGD(learning_rate=0.25)" in text
    assert "InGroup" not in text


def test_a_group_that_is_added_later_joins_with_its_own_state():
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = optimizer_of([a], mo.Adam())
    a.grad = torch.ones(3)
    optimizer.step()
    moment = optimizer.state[a]["m"]
    optimizer.add_param_group({"params": b, "lr": 0.5})
    assert optimizer.state[a]["m"] is moment
    assert moment.any()
    assert set(optimizer.state[b]) == {"m", "v", "t"}
    b.grad = torch.ones(2)
    optimizer.step()
    assert [int(optimizer.state[p]["t"]) for p in (a, b)] == [2, 1]
    assert [group["step"] for group in optimizer.param_groups] == [2, 2]
    assert torch.allclose(
        b, torch.full((2,), 0.5), atol=1e-6
    )  # Adam's first step has the learning rate's size


def test_a_group_that_cannot_be_stepped_is_not_added():
    a = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([a], mo.Adam())
    for params, kind in [
        (torch.nn.Parameter(torch.ones(2, device="meta")), BackendError),
        (torch.nn.Parameter(a.detach()[1:]), AliasError),
        (torch.ones(2, dtype=torch.int64), DtypeError),
        (torch.ones(2, dtype=torch.complex64), DtypeError),
        (torch.nn.Parameter(torch.ones(1).expand(3)), AliasError),
    ]:
        with pytest.raises(kind):
            optimizer.add_param_group({"params": [params]})
        assert len(optimizer.param_groups) == 1
    with pytest.raises(StructureError, match="params"):
        optimizer.add_param_group([a])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [a]})
    a.grad = torch.ones(3)
    optimizer.step()


@pytest.mark.parametrize("flag", ["maximize", "differentiable", "capturable"])
def test_what_is_not_there_is_refused_kindly(flag):
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(HyperparameterError, match=f"Optimizer: {flag}: got True; wanted False"):
        optimizer_of([p], mo.Adam(), **{flag: True})
    with pytest.raises(HyperparameterError, match=rf"param_groups\[0\]: {flag}"):
        optimizer_of([{"params": [p], flag: True}], mo.Adam())
    optimizer_of([p], mo.Adam(), foreach=True, fused=True)


def test_a_class_is_no_rule():
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(HyperparameterError, match="the class Adam"):
        optimizer_of([p], mo.Adam)
    with pytest.raises(HyperparameterError, match="a rule"):
        optimizer_of([{"params": [p], "rule": "adam"}], mo.Adam())
    with pytest.raises(ValueError, match="empty parameter list"):
        optimizer_of([], mo.Adam())


def test_a_tensor_on_a_device_is_refused_and_never_copied():
    with pytest.raises(BackendError, match=r"0/0: got a torch\.Tensor on meta.*no kernels.*silently"):
        optimizer_of([torch.nn.Parameter(torch.ones(3, device="meta"))], mo.Adam())
    from memopt_ref.interop import tensors

    with pytest.raises(BackendError, match=r"w: got a torch\.Tensor on meta"):
        tensors.gradient("w", torch.ones(3, device="meta"))


def test_lazy_and_other_unusual_parameters_are_named():
    with pytest.raises(BackendError, match="Run the model once"):
        optimizer_of(torch.nn.LazyLinear(3).parameters(), mo.Adam())
    with pytest.raises(BackendError, match=r"layout torch\.sparse_coo"):
        optimizer_of([torch.ones(3).to_sparse()], mo.Adam())
    named = [("w", torch.ones(2)), ("w", torch.ones(3))]
    with pytest.raises(StructureError, match="two parameters of this name"):
        optimizer_of(named, mo.Adam())


def test_names_are_used_where_they_are_given():
    model = linear()
    optimizer = optimizer_of(model.named_parameters(), mo.Adam())
    model.bias.grad = torch.full((3,), float("nan"))
    with pytest.raises(NonFiniteError, match=r"^bias: "):
        optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_gradients_that_are_not_finite_change_nothing_or_what_was_asked():
    for policy in ("raise", "skip", "zero", "propagate"):
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = optimizer_of([p], mo.Adam(), nonfinite=policy)
        before = bits_of_state(optimizer)
        p.grad = torch.tensor([1.0, float("inf"), 0.0])
        if policy == "raise":
            with pytest.raises(NonFiniteError, match="0/0"):
                optimizer.step()
        else:
            optimizer.step()
        still = policy in ("raise", "skip")
        assert (bits_of_state(optimizer) == before) == still
        assert optimizer.param_groups[0]["step"] == (0 if still else 1)
        assert bool(torch.isfinite(p).all()) == (policy != "propagate")


def test_an_interrupt_between_two_tensors_is_remembered(monkeypatch):
    model = linear()
    optimizer = optimizer_of(model.parameters(), mo.Adam(), backend="numpy")
    stored = copy.deepcopy(optimizer.state_dict())
    give_gradients(list(model.parameters()), 0)
    write, calls = numpy_ref.rows.RowStep.write, []

    def interrupted(self, w, state):
        calls.append(w)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, w, state)

    with monkeypatch.context() as patch:
        patch.setattr(numpy_ref.rows.RowStep, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    for use in (optimizer.step, optimizer.state_dict, lambda: copy.deepcopy(optimizer)):
        with pytest.raises(TornError, match="0/1"):
            use()
    optimizer.load_state_dict(stored)
    optimizer.step()


def test_closures_see_gradients_and_their_loss_comes_back():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(learning_rate=0.5))

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert not p.any()
    assert optimizer.step() is None


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(to_none):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(momentum=0.9, learning_rate=0.5))
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=to_none)
    assert (p.grad is None) == to_none
    assert optimizer.state[p]["m"].all(), "the momentum is not the gradient's memory"
    before = raw(p)
    optimizer.step()
    assert (raw(p) == before) == to_none, "a gradient of zero still moves by momentum, none does not"


def test_autograd_notices_that_a_parameter_was_written():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD())
    loss = (p**2).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_replaced_data_tensor_is_stepped_where_it_lies_now():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(learning_rate=0.5))
    old, new = p.data, torch.full((3,), 8.0)
    p.grad = torch.ones(3)
    optimizer.step()
    p.data = new
    optimizer.step()
    assert new.tolist() == [7.5] * 3
    assert old.tolist() == [0.5] * 3
    p.data = torch.ones(4)
    p.grad = torch.ones(4)
    optimizer.step()  # SGD has no state that could not fit
    q = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([q], mo.Adam())
    q.data = torch.ones(4)
    q.grad = torch.ones(4)
    with pytest.raises(
        CheckpointMismatchError, match=r"0/0: slot 'm': got float32\[3\]; wanted float32\[4\]"
    ):
        optimizer.step()


def test_strided_parameters_are_stepped_in_place():
    base = torch.zeros(4, 6)
    p = torch.nn.Parameter(base.t()[::2, 1:])
    image = torch.nn.Parameter(torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last))
    optimizer = optimizer_of([p, image], mo.SGD(learning_rate=1.0))
    p.grad, image.grad = torch.ones(3, 3), torch.ones_like(image)
    optimizer.step()
    assert float(base.sum()) == -9
    assert not image.any()
    assert image.is_contiguous(memory_format=torch.channels_last)


def schedulers(optimizer):
    lr = torch.optim.lr_scheduler
    return {
        "StepLR": lambda: lr.StepLR(optimizer, 2, 0.5),
        "LambdaLR": lambda: lr.LambdaLR(optimizer, lambda epoch: epoch / 10),
        "Cosine": lambda: lr.CosineAnnealingLR(optimizer, 5),
        "OneCycle": lambda: lr.OneCycleLR(optimizer, 0.5, total_steps=8),
        "Cyclic": lambda: lr.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2),
        "Sequential": lambda: lr.SequentialLR(
            optimizer, [lr.LinearLR(optimizer), lr.ExponentialLR(optimizer, 0.9)], [3]
        ),
        "Plateau": lambda: lr.ReduceLROnPlateau(optimizer, patience=0),
    }


@pytest.mark.parametrize("rule", ["Adam", "SGD"])
@pytest.mark.parametrize(
    "name", ["StepLR", "LambdaLR", "Cosine", "OneCycle", "Cyclic", "Sequential", "Plateau"]
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_schedulers_of_torch_drive_the_learning_rate_as_they_drive_torch(name, rule):
    """float64, so that the difference is rounding: 8 steps of a few operations, 1e-12 of weights near 1."""
    weights = []
    for ours in (True, False):
        p = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        if rule == "Adam":
            optimizer = (
                optimizer_of([p], mo.Adam(learning_rate=0.1)) if ours else torch.optim.Adam([p], lr=0.1)
            )
        elif ours:
            optimizer = optimizer_of([p], mo.SGD(learning_rate=0.1, momentum=0.9, dampening=0.0))
        else:
            optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        scheduler = schedulers(optimizer)[name]()
        rates = []
        for step in range(8):
            p.grad = torch.linspace(-1, 1, 5, dtype=torch.float64) * (step + 1)
            optimizer.step()
            scheduler.step(*([1.0] if name == "Plateau" else []))
            rates.append(optimizer.param_groups[0]["lr"])
        weights.append((p.detach().numpy(), rates))
    (mine, my_rates), (theirs, their_rates) = weights
    assert my_rates == their_rates
    assert len(set(my_rates)) > 1
    assert np.max(np.abs(mine - theirs)) < 1e-12


def test_a_momentum_that_has_no_slot_cannot_be_cycled():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(learning_rate=0.1))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=8)
    p.grad = torch.ones(3)
    with pytest.raises(HyperparameterError, match="cycle_momentum=False"):
        optimizer.step()
    assert p.tolist() == [1, 1, 1]


def test_a_learning_rate_that_is_a_tensor_counts():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([{"params": [p], "lr": torch.tensor(0.5)}], mo.SGD())
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.tolist() == [0.75] * 3


def test_the_loss_scaler_of_torch_works_with_it():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(learning_rate=0.5))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(p.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert p.tolist() == [0.5] * 3


def test_the_dialect_is_the_optimizer_of_torch_over_many_tensors():
    """float64 and the table's tolerance for closed forms."""
    torch.manual_seed(1)
    w = [torch.randn(k + 1, 3, dtype=torch.float64) for k in range(60)]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in w] for _ in range(2))
    mine = optimizer_of(ours, mo.dialects.torch.AdamW(lr=0.1), foreach=True)
    reference = torch.optim.AdamW(theirs, lr=0.1)
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        mine.step()
        reference.step()
    assert all((a - b).abs().max().item() < 1e-12 for a, b in zip(ours, theirs, strict=True))


def test_every_error_is_of_the_one_tree():
    p = torch.nn.Parameter(torch.ones(3))
    for make in (
        lambda: optimizer_of([p], None),
        lambda: optimizer_of([p], mo.Adam(), backend="cuda"),
        lambda: optimizer_of([p], mo.Adam(), max_norm=-1.0),
        lambda: optimizer_of([p], mo.Adam(), nonfinite="ignore"),
        lambda: optimizer_of([{"params": [p], "lr": "0.1"}], mo.Adam()),
    ):
        with pytest.raises(MemoptError):
            make()


def test_clipping_is_over_all_groups():
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizer_of([{"params": [a]}, {"params": [b]}], mo.SGD(learning_rate=1.0), max_norm=1.0)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert torch.allclose(torch.cat([a, b]), torch.tensor([-0.6, -0.8]))


def test_state_nbytes_is_what_the_planner_says():
    model = linear()
    optimizer = optimizer_of(model.parameters(), mo.SM3(momentum=0.9))
    shapes = {f"0/{k}": tuple(p.shape) for k, p in enumerate(model.parameters())}
    assert optimizer.state_nbytes == mo.state_nbytes(mo.SM3(momentum=0.9), shapes)
