"""A training script of torch with one line changed: digits, mini-batches, a scheduler, stop and resume."""

from __future__ import annotations

import io

import numpy as np
import pytest

import memopt_ref as mo

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("sklearn.datasets")
pytestmark = pytest.mark.oracle

EPOCHS = 4


def digits():
    x, y = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = torch.tensor(x[order] / 16.0, dtype=torch.float32)
    y = torch.tensor(y[order])
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def network(dtype=torch.float32):
    torch.manual_seed(7)
    return torch.nn.Sequential(
        torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 10)
    ).to(dtype)


def train(make, dtype=torch.float32, stop_after=None):
    """The script: everything but ``make`` is as for any optimizer of torch."""
    (x, y), _ = digits()
    model = network(dtype)
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        if epoch == stop_after:
            file = io.BytesIO()
            parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            torch.save({name: part.state_dict() for name, part in parts.items()}, file)
            stored = torch.load(io.BytesIO(file.getvalue()))
            model = network(dtype)
            optimizer = make(model.parameters())
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
            for name, part in {"model": model, "optimizer": optimizer, "scheduler": scheduler}.items():
                part.load_state_dict(stored[name])
        batches = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(50)
        for batch in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[batch].to(dtype)).float(), y[batch])
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model, optimizer


def accuracy(model):
    _, (x, y) = digits()
    with torch.no_grad():
        dtype = next(model.parameters()).dtype
        return float((model(x.to(dtype)).argmax(1) == y).float().mean())


RULES = {
    "SGD": mo.SGD(learning_rate=0.2, momentum=0.9),
    "AdaGrad": mo.AdaGrad(learning_rate=0.05),
    "Adam": mo.Adam(learning_rate=3e-3),
    "SM3": mo.SM3(learning_rate=0.1, momentum=0.9),
    "Adafactor": mo.Adafactor(learning_rate=1e-2),
    "MicroAdam": mo.MicroAdam(learning_rate=3e-3, density=0.05),
    "CountSketchAdam": mo.CountSketchAdam(learning_rate=3e-3, compression=2),
}


def all_bits(model, optimizer):
    state = optimizer.state_dict()["state"]
    tensors = [*model.state_dict().values(), *(t for s in state.values() for t in s.values())]
    return [(t.dtype, tuple(t.shape), t.reshape(-1).view(torch.uint8).numpy().tobytes()) for t in tensors]


@pytest.mark.parametrize("name", RULES)
def test_the_script_trains_and_resumes_to_the_same_bits(name):
    def make(params):
        return mo.interop.torch.Optimizer(params, RULES[name])

    model, optimizer = train(make)
    found = accuracy(model)
    print(f"{name}: test accuracy {found:.3f}, state {optimizer.state_nbytes} bytes")
    # 397 test digits. Chance is 0.1; a sketch of moments is made for tables of which a step touches few rows,
    # and here all rows collide in every step.
    assert found > (0.3 if name == "CountSketchAdam" else 0.85)
    assert all_bits(*train(make, stop_after=2)) == all_bits(model, optimizer)


def test_the_script_trains_in_bfloat16_and_resumes_to_the_same_bits():
    def make(params):
        return mo.interop.torch.Optimizer(params, RULES["MicroAdam"])

    model, optimizer = train(make, torch.bfloat16)
    assert accuracy(model) > 0.85
    dtypes = {t.dtype for state in optimizer.state.values() for t in state.values()}
    assert {torch.int16, torch.bfloat16, torch.uint8, torch.int64} <= dtypes
    assert all_bits(*train(make, torch.bfloat16, stop_after=1)) == all_bits(model, optimizer)


def test_it_is_the_run_of_torch_itself():
    """The same script with torch's own optimizers; float64 for rounding alone: 1e-9 of weights near 1."""
    for theirs, rule in [
        (lambda params: torch.optim.Adam(params, lr=3e-3), mo.dialects.torch.Adam(lr=3e-3)),
        (lambda params: torch.optim.Adagrad(params, lr=0.05), mo.dialects.torch.Adagrad(lr=0.05)),
    ]:
        a, _ = train(theirs, torch.float64)
        b, _ = train(lambda params, rule=rule: mo.interop.torch.Optimizer(params, rule), torch.float64)
        worst = max(
            float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True)
        )
        print(f"{rule.name}: largest difference {worst:.1e}")
        assert worst < 1e-9


def test_forgetting_a_counter_is_noticed():
    """What other optimizers do on resume, keeping the step outside the state, ends in other bits."""
    model, optimizer = train(lambda params: mo.interop.torch.Optimizer(params, RULES["Adam"]))

    class Forgetful(mo.interop.torch.Optimizer):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)
            for state in self.state.values():
                state["t"].zero_()

    other = train(lambda params: Forgetful(params, RULES["Adam"]), stop_after=2)
    assert all_bits(*other) != all_bits(model, optimizer)
