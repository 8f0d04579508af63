"""What the tests of torch's optimizer share: tensors, gradients and their bits."""

from __future__ import annotations

import ml_dtypes
import pytest

import memopt_ref as mo
from tests.table import all_cases

torch = pytest.importorskip("torch")

EACH = [pytest.param(case, id=case.name) for case in all_cases()]
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def optimizer_of(params, rule, **options):
    return mo.interop.torch.Optimizer(params, rule, **options)


def raw(t):
    """The bytes of a tensor."""
    return array_of(t).tobytes()


def bits_of_state(optimizer):
    return {
        k: {name: (t.dtype, tuple(t.shape), raw(t)) for name, t in state.items()}
        for k, state in optimizer.state_dict()["state"].items()
    }


def array_of(t):
    t = t.detach()
    if t.dtype == torch.bfloat16:
        return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return t.numpy()


def parameters(case, dtype="float32", seed=1):
    gen = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=gen, dtype=torch.float64).to(DTYPES[dtype]))
        for shape in case.shapes
    ]


def give_gradients(params, step, seed=2):
    """Fresh gradients; now and then a tensor has none."""
    gen = torch.Generator().manual_seed(1000 * seed + step)
    for k, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=gen, dtype=torch.float64).to(p.dtype)
        if (step + k) % 4 == 3:
            p.grad = None


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3, dtype=dtype)
