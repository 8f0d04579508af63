"""Tensors of torch on a GPU: what is asked of the way there, and that nothing leaves the device on it.

There is no GPU here. Tensors of the host stand for CUDA's, a stand-in for CuPy views them, and the kernels
that ship are simulated. What this cannot show is that torch and CuPy see one memory by DLPack on a device,
and that work of the two on one stream is done in order.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.errors import AliasError, BackendError, CheckpointMismatchError, NonFiniteError
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import Stand, install, plain
from tests.numba_cpu.inputs import same_bits

torch = pytest.importorskip("torch")
from memopt_ref.interop import tensors, torch_bridge  # noqa: E402
from tests.interop.torch_runs import bits_of_state, optimizer_of, raw  # noqa: E402

pytestmark = [pytest.mark.oracle, simulated]

SHAPES = {"embedding": (30, 8), "weight": (17, 12), "bias": (17,), "scale": ()}
RULES = {
    "embedding": mo.SM3(momentum=0.9),
    "weight": mo.Adafactor(),
    "bias": mo.SGD(momentum=0.9),
    "scale": mo.AdamW(weight_decay=0.1),
}


class HostBridge:
    """Leads to a device whose memory is the host's; all that is no counter lies there."""

    def __init__(self):
        self.depth, self.entered = 0, 0

    def has(self, t):
        return not (t.dim() == 0 and not t.dtype.is_floating_point)

    def check(self, where, t):
        pass

    def array(self, t):
        assert t.dtype != torch.bfloat16
        return tensors.view("tensor", t).view(Stand)

    def tensor(self, array):
        assert type(array) is Stand
        return tensors.tensor(array.view(np.ndarray))

    @contextlib.contextmanager
    def running(self, t):
        self.depth, self.entered = self.depth + 1, self.entered + 1
        yield
        self.depth -= 1


def the_host():
    """No tensor lies on a device meanwhile."""
    return torch_bridge.instead(types.SimpleNamespace(has=lambda t: False))


class Watched(SimulatedDevice):
    """Launches nothing while the bridge has not made torch's device and stream the current ones."""

    def __init__(self, bridge):
        super().__init__()
        self.bridge = bridge

    def launch(self, *arguments, **options):
        assert self.bridge.depth > 0
        super().launch(*arguments, **options)


@pytest.fixture
def cuda(monkeypatch):
    """As if every tensor that is no counter lay on a GPU."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    install(monkeypatch)
    bridge = HostBridge()
    with instead(Watched(bridge)), torch_bridge.instead(bridge):
        yield bridge


def tensors_of(seed, dtype="float32"):
    gen = torch.Generator().manual_seed(seed)
    made = {n: torch.randn(shape, generator=gen, dtype=torch.float64) for n, shape in SHAPES.items()}
    return {n: t.to(getattr(torch, dtype)) for n, t in made.items()}


def groups_of(params):
    return [{"params": [p], "rule": RULES[name], "param_names": [name]} for name, p in params.items()]


def made(dtype="float32", **options):
    params = {name: torch.nn.Parameter(t) for name, t in tensors_of(0, dtype).items()}
    groups = [{"params": [(name, p)], "rule": RULES[name]} for name, p in params.items()]
    return params, optimizer_of(groups, mo.Adam(), **options)


def stepped(params, optimizer, steps, dtype="float32", first=1):
    for k in range(first, first + steps):
        for name, g in tensors_of(k, dtype).items():
            params[name].grad = None if (name, k) == ("bias", 2) else g
        optimizer.step()
    return params, optimizer


def on_host(*arguments, **options):
    """The same on the reference."""
    with the_host():
        return stepped(*made(backend="numpy", **options), *arguments)


def assert_same(mine, other):
    for name, p in mine[0].items():
        assert raw(p) == raw(other[0][name]), name
    assert bits_of_state(mine[1]) == bits_of_state(other[1])


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0}, {"nonfinite": "zero"}], ids=str)
def test_a_step_has_the_bits_of_the_reference_where_the_tensors_lie(cuda, options):
    params, optimizer = made(**options)
    addresses = {n: p.data_ptr() for n, p in params.items()}
    slots = {n: {k: t.data_ptr() for k, t in optimizer.state[p].items()} for n, p in params.items()}
    mine = stepped(params, optimizer, 3)
    assert {n: p.data_ptr() for n, p in params.items()} == addresses
    assert {n: {k: t.data_ptr() for k, t in optimizer.state[p].items()} for n, p in params.items()} == slots
    assert "numpy_ref" not in optimizer.explain()
    assert optimizer.explain().count("cupy.") >= len(SHAPES)
    assert cuda.entered > 3
    assert cuda.depth == 0
    assert_same(mine, on_host(3, **options))


def test_bfloat16_goes_as_integers_of_the_same_bytes(cuda):
    params = torch.nn.Parameter(torch.randn(50, 3).bfloat16())
    other = torch.nn.Parameter(params.detach().clone())
    optimizer, host = optimizer_of([params], mo.AdamW(weight_decay=0.1)), None
    with the_host():
        host = optimizer_of([other], mo.AdamW(weight_decay=0.1), backend="numpy")
    for k in range(3):
        params.grad = torch.randn(50, 3, generator=torch.Generator().manual_seed(k)).bfloat16()
        other.grad = params.grad.clone()
        optimizer.step()
        with the_host():
            host.step()
    assert raw(params) == raw(other)
    assert torch_bridge.tensor(torch_bridge.view("w", params)).dtype == torch.bfloat16


def test_a_bridge_that_copies_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr(HostBridge, "array", lambda self, t: tensors.view("t", t).copy().view(Stand))
    mine = stepped(*made(), 1)
    with pytest.raises(AssertionError):
        assert_same(mine, on_host(1))


def test_a_step_outside_of_torchs_stream_is_noticed(cuda, monkeypatch):
    monkeypatch.setattr(torch_bridge, "running", lambda t: contextlib.nullcontext())
    params, optimizer = made()
    with pytest.raises(AssertionError):
        stepped(params, optimizer, 1)


def test_state_goes_from_a_device_to_a_file_and_to_the_host_and_back(cuda):
    params, optimizer = stepped(*made(), 2)
    file = io.BytesIO()
    torch.save({"state": optimizer.state_dict(), "params": {n: p.data for n, p in params.items()}}, file)
    expected = on_host(4)
    for here in (True, False):
        file.seek(0)
        stored = torch.load(file)
        way = contextlib.nullcontext() if here else the_host()
        with way:
            again = made(backend="auto" if here else "numpy")
            for name, p in again[0].items():
                p.data.copy_(stored["params"][name])
            again[1].load_state_dict(stored["state"])
            stepped(*again, 2, first=3)
            assert_same(again, expected)
    broken = optimizer.state_dict()
    broken["state"] = {k: {**s} for k, s in broken["state"].items()}
    broken["state"][2]["m"] = broken["state"][2]["m"].double()
    with pytest.raises(CheckpointMismatchError, match="bias: slot 'm': got float64"):
        optimizer.load_state_dict(broken)


def test_slots_that_lie_elsewhere_than_their_parameter_are_refused(cuda):
    from memopt_ref.interop import torch_state

    slots = mo.Adam().slots((3,), np.dtype("float32"))
    state = {"m": torch.zeros(3), "v": torch.zeros(3), "t": torch.tensor(0)}
    torch_state.check("w", state, slots, torch.zeros(3))
    with pytest.raises(
        BackendError, match=r"w: slot 'm': got a torch.Tensor on cpu; wanted .* meta.*load_state"
    ):
        torch_state.check("w", state, slots, torch.zeros(3, device="meta"))
    with pytest.raises(
        BackendError, match=r"w: slot 't': got a torch.Tensor on meta; wanted a tensor on cpu"
    ):
        torch_state.check("w", {**state, "t": torch.tensor(0, device="meta")}, slots, torch.zeros(3))


def test_tensors_of_two_devices_need_two_optimizers(cuda):
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, device="meta"))]
    with pytest.raises(BackendError, match=r"0/1: got a torch.Tensor on meta.*an optimizer for each device"):
        optimizer_of(params, mo.Adam())


def test_a_gradient_that_is_not_finite_changes_nothing(cuda):
    params, optimizer = made()
    before, weights = bits_of_state(optimizer), {n: raw(p) for n, p in params.items()}
    for name, g in tensors_of(1).items():
        params[name].grad = g
    params["weight"].grad[3, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="weight"):
        optimizer.step()
    assert bits_of_state(optimizer) == before
    assert {n: raw(p) for n, p in params.items()} == weights


def test_tied_tensors_on_a_device_are_refused(cuda):
    w = torch.ones(4, 4)
    with pytest.raises(AliasError, match="leaves that do not share memory"):
        optimizer_of([torch.nn.Parameter(w), torch.nn.Parameter(w[1:])], mo.Adam())


def test_a_rule_without_a_kernel_says_what_to_do(cuda):
    with pytest.raises(BackendError, match="Shampoo on cupy arrays"):
        optimizer_of([torch.nn.Parameter(torch.ones(3, 3))], mo.Shampoo())


def test_a_replaced_tensor_is_viewed_anew_and_no_other_is(cuda, monkeypatch):
    views, array = [], HostBridge.array
    monkeypatch.setattr(HostBridge, "array", lambda self, t: views.append(t.shape) or array(self, t))
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = optimizer_of([p], mo.Adam())
    p.grad = torch.ones(5)
    optimizer.step()
    views.clear()
    optimizer.step()
    assert len(views) == 1  # the gradient's
    optimizer.state[p]["m"] = optimizer.state[p]["m"].clone()
    optimizer.step()
    assert len(views) == 3
    other = torch.nn.Parameter(torch.ones(5))
    with the_host():
        host = optimizer_of([other], mo.Adam(), backend="numpy")
        other.grad = torch.ones(5)
        for _ in range(3):
            host.step()
    assert raw(p) == raw(other)


SPARSE = {
    "duplicates": lambda: torch.sparse_coo_tensor(
        [[2, 0, 2]], torch.arange(9.0).reshape(3, 3), (4, 3), check_invariants=True
    ),
    "coalesced": lambda: dense_gradient().to_sparse(1),
    "single entries": lambda: dense_gradient().to_sparse(2),
    "csr": lambda: dense_gradient().to_sparse_csr(),
    "no sparse axis": lambda: torch.sparse_coo_tensor(
        torch.empty(0, 1, dtype=torch.int64), torch.ones(1, 4, 3), (4, 3), check_invariants=True
    ),
}


def dense_gradient():
    g = torch.zeros(4, 3)
    g[1, 2], g[3, 0] = 2.0, -1.0
    return g


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("form", SPARSE)
def test_sparse_gradients_stay_on_the_device_and_step_as_on_the_host(cuda, form):
    g = SPARSE[form]()
    here, there = tensors.gradient("w", g), torch_bridge.gradient("w", g)
    if isinstance(here, mo.RowSparse):
        assert type(there.rows) is type(there.indices) is Stand
        pairs = [(plain(there.indices), here.indices), (plain(there.rows), here.rows)]
    else:
        assert type(there) is Stand
        pairs = [(plain(there), here)]
    assert all(same_bits(x, y) for x, y in pairs)
    if g.layout == torch.sparse_csr:
        return  # torch takes none for a dense parameter's gradient
    params = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    for p in params:
        p.grad = g
    rule = mo.SM3(learning_rate=0.5)
    device = optimizer_of(params[:1], rule)
    with the_host():
        host = optimizer_of(params[1:], rule, backend="numpy")
        host.step()
        host.step()
    device.step()
    device.step()
    assert raw(params[0]) == raw(params[1])
    assert bits_of_state(device) == bits_of_state(host)


def test_duplicates_of_single_entries_have_no_order_on_a_device_and_are_refused(cuda):
    g = torch.sparse_coo_tensor([[1, 1], [2, 2]], torch.ones(2), (4, 3), check_invariants=True)
    with pytest.raises(BackendError, match=r"w: got a gradient sparse in single entries.*\.coalesce\(\)"):
        torch_bridge.gradient("w", g)
    assert type(torch_bridge.gradient("w", g.coalesce()).rows) is Stand


def test_a_sparse_embedding_trains_on_the_device(cuda):
    def train(steps, **options):
        torch.manual_seed(0)
        table = torch.nn.Embedding(30, 4, sparse=True)
        optimizer = optimizer_of(table.parameters(), mo.SM3(learning_rate=0.5), **options)
        for step in range(steps):
            optimizer.zero_grad()
            (table(torch.tensor([3, 7, 3, 29, step])) ** 2).sum().backward()
            optimizer.step()
        return raw(table.weight), bits_of_state(optimizer)

    mine = train(3)
    with the_host():
        assert train(3, backend="numpy") == mine
        assert train(2, backend="numpy") != mine


# CuPy's own bridge, of which a machine without a GPU can only hear what it asks for


def cuda_tensor(number):
    return types.SimpleNamespace(device=torch.device("cuda", number), layout=torch.strided)


def test_without_cupy_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(
        mo.backends.registry.Backend,
        "available",
        lambda self: (self.name != "cupy", f"cupy is not installed: {self.install}"),
    )
    bridge = torch_bridge.CuPyBridge()
    assert bridge.has(cuda_tensor(0))
    assert not bridge.has(torch.ones(3))
    with pytest.raises(BackendError, match=r"w: got a torch.Tensor on cuda:0; wanted CuPy.*pip install"):
        bridge.check("w", cuda_tensor(0))
    monkeypatch.setattr(torch_bridge.CuPyBridge, "has", lambda self, t: True)
    with pytest.raises(
        BackendError, match=r"0/0: got a torch.Tensor on cpu; wanted CuPy.*memopt-ref\[cuda12\]"
    ):
        optimizer_of([torch.nn.Parameter(torch.ones(3))], mo.Adam())


def test_the_device_and_the_stream_are_torchs(monkeypatch):
    done = []

    class Entered:
        def __init__(self, *arguments):
            self.arguments = arguments

        def __enter__(self):
            done.append(("enter", type(self).__name__, *self.arguments))

        def __exit__(self, *error):
            done.append(("leave", type(self).__name__))

    class Device(Entered):
        pass

    class ExternalStream(Entered):
        pass

    module = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(Device=Device, ExternalStream=ExternalStream)
    monkeypatch.setitem(sys.modules, "cupy", module)
    streams = {torch.device("cuda", 1): types.SimpleNamespace(cuda_stream=1234)}
    monkeypatch.setattr(torch.cuda, "current_stream", streams.__getitem__)
    with torch_bridge.running(cuda_tensor(1)):
        done.append("step")
    assert done == [
        ("enter", "Device", 1),
        ("enter", "ExternalStream", 1234, 1),
        "step",
        ("leave", "ExternalStream"),
        ("leave", "Device"),
    ]


def test_views_share_memory_both_ways(monkeypatch):
    module = types.ModuleType("cupy")
    module.from_dlpack = np.from_dlpack
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(torch_bridge.CuPyBridge, "has", lambda self, t: True)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        t = torch.nn.Parameter(torch.zeros(4, 3, dtype=dtype)[:, ::2])
        x = torch_bridge.view("w", t)
        assert x.shape == (4, 2)
        assert x.dtype == torch_bridge.dtype_of(dtype)
        x[1, 1] = 2
        assert t[1, 1] == 2
    bridge, x = torch_bridge.CuPyBridge(), np.zeros(3, np.int16)
    bridge.tensor(x)[1] = 7
    assert x[1] == 7


def test_the_functional_form_says_what_to_do_with_a_cuda_tensor():
    with pytest.raises(BackendError, match=r"w: got a torch.Tensor on cuda:0.*\.cpu\(\).*torch\.Optimizer"):
        tensors.check_host("w", cuda_tensor(0))


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_on_a_gpu_are_stepped_on_a_stream_of_torch_with_the_bits_of_the_reference(dtype):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU, or torch is built without CUDA")
    there = {name: torch.nn.Parameter(t.cuda()) for name, t in tensors_of(0, dtype).items()}
    here = {name: torch.nn.Parameter(t) for name, t in tensors_of(0, dtype).items()}
    optimizers = []
    for params, backend in ((there, "cupy"), (here, "numpy")):
        groups = [{"params": [(name, p)], "rule": RULES[name]} for name, p in params.items()]
        optimizers.append(optimizer_of(groups, mo.Adam(), backend=backend))
    torch.cuda.synchronize()  # what was made on one stream is used on others
    for k in range(1, 4):
        for name, g in tensors_of(k, dtype).items():
            here[name].grad = g.to_sparse(1) if name == "embedding" else g
        with torch.cuda.stream(torch.cuda.Stream()):
            for name, p in there.items():
                p.grad = here[name].grad.cuda()
            optimizers[0].step()
            torch.cuda.current_stream().synchronize()
        optimizers[1].step()
    for name, p in there.items():
        assert raw(p.cpu()) == raw(here[name]), name
        for slot, t in optimizers[0].state[p].items():
            assert t.is_cuda == (t.dim() > 0 or t.dtype.is_floating_point)
            assert raw(t.cpu()) == raw(optimizers[1].state[here[name]][slot]), (name, slot)
    stored = optimizers[0].state_dict()
    optimizers[1].load_state_dict(stored)
    optimizers[0].load_state_dict(optimizers[1].state_dict())
