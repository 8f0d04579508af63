"""The state of torch's optimizer: stored, loaded and copied to the last bit, or refused."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

import memopt_ref as mo
from memopt_ref.errors import BackendError, CheckpointMismatchError, HyperparameterError
from tests.table import all_cases

torch = pytest.importorskip("torch")
from tests.interop.torch_runs import bits_of_state, give_gradients, linear, optimizer_of, parameters, raw  # noqa: E402

pytestmark = pytest.mark.oracle


RESUMED = [
    pytest.param(case, dtype, id=f"{case.name}-{dtype}")
    for case in all_cases()
    for dtype in ("float32", "bfloat16")
    if dtype == "float32" or case.name in ("adam", "sm3", "cs-adam", "topk-adam") or "microadam" in case.name
]


@pytest.mark.parametrize(("case", "dtype"), RESUMED)
def test_a_run_resumed_from_a_file_has_the_bits_of_the_run_that_went_on(case, dtype):
    params = parameters(case, dtype)
    optimizer = optimizer_of(params, case.rule)
    saved = []
    for step in range(4):
        file = io.BytesIO()
        torch.save({"model": params, "optimizer": optimizer.state_dict()}, file)
        saved.append(file.getvalue())
        give_gradients(params, step)
        optimizer.step()
    for k, content in enumerate(saved):
        found = torch.load(io.BytesIO(content))  # plain tensors and values: weights_only=True
        again = [torch.nn.Parameter(p.detach()) for p in found["model"]]
        other = optimizer_of(again, case.rule)
        other.load_state_dict(found["optimizer"])
        for step in range(k, 4):
            give_gradients(again, step)
            other.step()
        assert [raw(p) for p in again] == [raw(p) for p in params]
        assert bits_of_state(other) == bits_of_state(optimizer)
        assert other.param_groups[0]["step"] == 4


def test_torch_would_have_cast_the_state():
    """Why ``load_state_dict`` is our own: int16 indices beside bfloat16 parameters come back as others."""
    rule = mo.MicroAdam(window=2, density=0.1, block=4096)
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(4096, dtype=torch.bfloat16))
    optimizer = optimizer_of([p], rule)
    p.grad = torch.randn(4096, dtype=torch.bfloat16)
    optimizer.step()
    stored, before = copy.deepcopy(optimizer.state_dict()), bits_of_state(optimizer)
    name = next(n for n, t in stored["state"][0].items() if t.dtype == torch.int16)
    other = optimizer_of([p], rule)
    groups = [{**group, "rule": rule} for group in stored["param_groups"]]
    torch.optim.Optimizer.load_state_dict(other, {**stored, "param_groups": groups})
    assert not torch.equal(other.state[p][name].long(), stored["state"][0][name].long())
    with pytest.raises(CheckpointMismatchError, match="got bfloat16"):
        other.step()
    other = optimizer_of([p], rule)
    other.load_state_dict(stored)
    assert bits_of_state(other) == before


def test_loading_copies():
    p, q = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    one, two = optimizer_of([p], mo.Adam()), optimizer_of([q], mo.Adam())
    two.load_state_dict(one.state_dict())
    p.grad = torch.ones(3)
    one.step()
    assert not two.state[q]["m"].any()
    assert int(two.state[q]["t"]) == 0


def stored_and_fresh(rule=None, other=None):
    a, b = linear(), linear()
    return (
        optimizer_of(a.parameters(), rule or mo.Adam()).state_dict(),
        optimizer_of(b.parameters(), other or rule or mo.Adam()),
    )


def lose(stored):
    del stored["state"][1]["m"]


def widen(stored):
    stored["state"][0]["v"] = stored["state"][0]["v"].double()


def reshape(stored):
    stored["state"][0]["v"] = stored["state"][0]["v"].T


def unwrap(stored):
    stored["state"][1]["t"] = 3


def shift(stored):
    stored["state"][1]["m"] = torch.empty(3, device="meta")


def forget(stored):
    del stored["state"][1]


def regroup(stored):
    stored["param_groups"][0]["params"].append(2)


def another_lr(stored):
    stored["param_groups"][0]["lr"] = -1.0


WRONG_STATES = [
    (lose, CheckpointMismatchError, "0/1: got slots v, t; wanted slots m, v, t"),
    (widen, CheckpointMismatchError, r"0/0: slot 'v': got float64\[3, 4\]; wanted float32\[3, 4\]"),
    (reshape, CheckpointMismatchError, r"got float32\[4, 3\]; wanted float32\[3, 4\]"),
    (unwrap, CheckpointMismatchError, r"slot 't': got a int; wanted a tensor int64\[\]"),
    (shift, BackendError, "on meta.*map_location"),
    (forget, CheckpointMismatchError, "0/1: got slots none"),
    (regroup, CheckpointMismatchError, r"groups of \[3\] parameters; wanted groups of \[2\]"),
    (another_lr, HyperparameterError, "learning_rate: got -1.0"),
]


@pytest.mark.parametrize(("harm", "kind", "message"), WRONG_STATES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(harm, kind, message):
    stored, fresh = stored_and_fresh()
    stored = copy.deepcopy(stored)
    stored["param_groups"][0]["lr"] = 0.75
    for state in stored["state"].values():
        state["m"] += 1
    harm(stored)
    before = bits_of_state(fresh)
    with pytest.raises(kind, match=message):
        fresh.load_state_dict(stored)
    assert bits_of_state(fresh) == before
    assert fresh.param_groups[0]["lr"] == 1e-3


def test_the_state_of_another_rule_or_of_torch_is_refused():
    stored, fresh = stored_and_fresh(mo.Adam(), mo.SGD(momentum=0.9))
    with pytest.raises(CheckpointMismatchError, match=r"the state of Adam\(.*wanted SGD\("):
        fresh.load_state_dict(stored)
    with pytest.raises(CheckpointMismatchError, match="another optimizer"):
        fresh.load_state_dict(torch.optim.SGD(linear().parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="wanted"):
        fresh.load_state_dict(stored)


def test_hooks_of_loading_and_saving_run():
    stored, fresh = stored_and_fresh()
    seen = []

    def halve(optimizer, state_dict):
        group = {**state_dict["param_groups"][0], "lr": 0.5}
        return {**state_dict, "param_groups": [group]}

    fresh.register_load_state_dict_pre_hook(halve)
    fresh.register_load_state_dict_post_hook(lambda optimizer: seen.append(optimizer.param_groups[0]["lr"]))
    fresh.register_state_dict_post_hook(lambda optimizer, state_dict: {**state_dict, "more": 1})
    fresh.load_state_dict(stored)
    assert seen == [0.5]
    assert fresh.state_dict()["more"] == 1


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)), lambda pair: _through_file(pair)],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copied_optimizer_goes_on_alone(clone):
    model = linear()
    optimizer = optimizer_of(model.parameters(), mo.Adam(), nonfinite="zero", max_norm=1.0)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    params = list(model.parameters())
    give_gradients(params, 0)
    optimizer.step()
    twin_model, twin = clone((model, optimizer))
    twins = list(twin_model.parameters())
    assert twin.param_groups[0]["params"][0] is twins[0]
    for step in (1, 2):
        give_gradients(params, step)
        give_gradients(twins, step)
        optimizer.step()
        if step == 1:
            assert [raw(p) for p in twins] != [raw(p) for p in params]
        twin.step()
        assert [raw(p) for p in twins] == [raw(p) for p in params]
        assert bits_of_state(twin) == bits_of_state(optimizer)
    twin.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert len(twin.param_groups) == 2


def _through_file(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_run_that_ended_with_a_momentum_of_zero_resumes():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([p], mo.SGD(momentum=0.9, learning_rate=0.5))
    optimizer.param_groups[0]["momentum"] = 0.0
    other = optimizer_of([p], mo.SGD(momentum=0.9))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    p.grad = torch.ones(3)
    other.step()
    assert other.param_groups[0]["momentum"] == 0.0
    assert p.tolist() == [0.5] * 3
