"""How MicroAdam's kernel is launched: which form, where arrays lie, how much moves, and by the optimizer."""

from __future__ import annotations

import dataclasses
import re
from contextlib import nullcontext

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.cupy_gpu import microadam, microadam_engine
from memopt_ref.backends.cupy_gpu.device import RecordingDevice, instead
from memopt_ref.backends.cupy_gpu.microadam_engine import Tile
from memopt_ref.errors import BackendError
from tests.cuda_sim.device import KernelError, SimulatedDevice, Window
from tests.cupy_gpu.gate import microadam_kernels
from tests.cupy_gpu.machines import Simulated, simulated
from tests.cupy_gpu.stand_in import Stand, install, on_device, plain
from tests.cupy_gpu.test_gate import loose, needs_nvrtc, ptx
from tests.cupy_gpu.test_microadam import F32, RULES, SHORT, assert_same_steps, gradients
from tests.numba_cpu.inputs import hard, same_bits
from tests.table import dtype_of


class Recording(SimulatedDevice):
    """Remembers the last kernel, and the bytes of the last launch."""

    def launch(self, kernel, *arguments, **options):
        self.kernel = kernel
        super().launch(kernel, *arguments, **options)


def placed(size, dtype, shift=0):
    """Zeros whose address is ``shift`` entries past a multiple of 256 bytes."""
    room = np.zeros(size + 300, dtype)
    return room[(-room.ctypes.data % 256) // room.itemsize + shift :][:size]


@simulated
def test_longer_blocks_go_through_registers_shared_memory_or_memory():
    """What has memory of its own takes several launches, one after the other, in the same place."""
    forms = {}
    for block, bucket, size in ((8192, 64, 9000), (8192, 100, 8192), (16384, 64, 50_001)):
        device = Recording("check", processors=1)
        rule = mo.MicroAdam(block=block, bucket=bucket, window=2)
        w = hard(size, share=0)
        assert_same_steps(Simulated.on(device), rule, w, gradients(size, 2, share=0.0001))
        defined = device.kernel.definitions
        forms[block, bucket] = defined["BLOCK"], defined["RUNS"], defined["SCRATCH"]
    assert forms == {
        (8192, 64): ("256", "4", "0"),
        (8192, 100): ("256", "0", "0"),
        (16384, 64): ("256", "0", "1"),
    }


@simulated
def test_arrays_at_any_address_are_read_in_the_packs_that_fit():
    for shift, name, vec in ((0, "short", "4"), (2, "l2", "2")):
        device, g = Recording(), placed(1051, np.float32, shift)
        g[...] = hard(1051, share=0)
        assert_same_steps(Simulated.on(device), RULES[name], placed(1051, g.dtype), [g])
        assert device.kernel.definitions["VEC"] == vec
    rule, w, g = RULES["short"], hard(1051, share=0), hard(1051, seed=1, share=0)
    state, expected = rule.init_leaf(w), rule.values(w, g, rule.init_leaf(w))
    state["e"] = placed(state["e"].size, np.uint8, 1)
    with Simulated.on(device).running():
        microadam.step(rule, w, g, state)
    assert device.kernel.definitions["RUNS"] == "0", "words of codes lie at multiples of four"
    assert same_bits(w, expected["w"])
    assert same_bits(state["e"], expected["e"])


@simulated
@pytest.mark.parametrize(("dtype", "most"), [("float32", 10.2), ("bfloat16", 6.9)])
def test_a_step_moves_10_bytes_a_parameter_and_7_in_bfloat16(dtype, most):
    """Gradient, codes twice, bounds twice, window once and a row of it, and the sectors of w that it names.

    A tenth of the entries are named once the ring is full, about 1 - 0.9^8 of the sectors in float32.
    """
    n, rule, device = 16 * 4096, mo.MicroAdam(), Recording()
    w, g = placed(n, dtype_of(dtype)), placed(n, dtype_of(dtype))
    state = {name: placed(x.size, x.dtype) if np.ndim(x) else x for name, x in rule.init_leaf(w).items()}
    numbers = np.random.default_rng(0)
    for step in (*[numpy_ref.step] * 11, microadam.step):
        g[...] = numbers.standard_normal(n)
        with Simulated.on(device).running():
            step(rule, w, g, state)
    bytes_of = {name: t.bytes for name, t in device.traffic.items()}
    blocks, kept = 16, 41
    index = (
        state["I"].reshape(blocks, rule.window * kept).astype(np.int64) + 4096 * np.arange(blocks)[:, None]
    )
    named = np.unique(index * w.itemsize // 32).size
    assert bytes_of["w_all"] == 2 * 32 * named
    assert bytes_of["g_all"] == n * g.itemsize
    assert bytes_of["code_all"] == n
    assert bytes_of["low_all"] == bytes_of["high_all"] == 2 * 2 * n // 64
    # A row of 82 bytes lies in at most four sectors.
    window = 2 * 2 * index.size
    assert window <= bytes_of["index_all"] + bytes_of["value_all"] <= window + 64 + 2 * blocks * 4 * 32
    moved_by_entry = sum(bytes_of.values()) / n
    assert 0.97 * most < moved_by_entry < most


@simulated
def test_a_tensor_of_billions_of_entries_has_64_bit_indices():
    """The last block alone: entry, code, bucket and place in the window lie beyond 2^31."""
    rule = mo.MicroAdam(eps=1e-3)
    near, number = 4096, 3 << 20
    w, g = hard(near, share=0), hard(near, seed=1, share=0)
    state = rule.init_leaf(w)
    expected = rule.values(w, g, state)
    device = RecordingDevice()
    microadam_engine.step(device, rule, w, g, state, 1)
    (launch,) = device.launches
    narrow = launch.kernel.source.replace(
        "const long long begin = number * block", "const int begin = (int)(number * block)"
    )
    assert narrow != launch.kernel.source
    starts = [x * number for x in (near, near, 410, 410, near // 2, near // 64, near // 64)]
    sizes = list(launch.args)
    at = next(i for i, x in enumerate(sizes) if isinstance(x, np.int64))
    sizes[at] = np.int64((number + 1) * near)
    last = range(number, number + 1)
    for text, overflows in (
        (launch.kernel, False),
        (dataclasses.replace(launch.kernel, source=narrow), True),
    ):
        arrays = [x.copy() for x in launch.args[:7]]
        args = [*(Window(x, start) for x, start in zip(arrays, starts, strict=True)), *sizes[7:]]
        with pytest.raises(KernelError, match=r"bytes (before|after)") if overflows else nullcontext():
            SimulatedDevice().launch(text, (number + 1,), launch.block, args, launch.shared, blocks=last)
        if not overflows:
            for name, x in zip(("w", None, "I", "V", "e", "e_min", "e_max"), arrays, strict=True):
                assert name is None or same_bits(x, expected[name]), name


@needs_nvrtc
def test_no_operation_is_fused_and_whole_packs_are_read():
    text = ptx(dict(microadam_kernels())["microadam float32"])
    assert loose(text) == []
    assert not re.search(r"\.f64\b", text)
    assert "ld.global.nc.v4.f32" in text
    assert "min.NaN.f32" in text
    # The window is written by the block that reads it: not through the cache for constants.
    assert not re.search(r"ld\.global\.nc\.[us]16", text)


def test_a_large_tensor_takes_one_launch_and_memory_for_a_round_of_blocks_only():
    def launches(rule, size):
        like = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (size,), (0,))
        arrays = {
            name: np.zeros(8, slot.dtype) for name, slot in rule.slots((8,), F32).items() if name != "t"
        }
        device = RecordingDevice(processors=3)
        microadam_engine._launch(
            microadam_engine.Job(device, rule, {"w": like, "g": like, **arrays}, 1, Tile())
        )
        return device.launches

    (launch,) = launches(mo.MicroAdam(), 5_000_000_001)
    assert (launch.grid, launch.block) == ((1220704,), (256,))
    assert launch.shared <= 48 << 10, "what every device lends unasked"
    rounds = launches(mo.MicroAdam(block=32768), 32768 * 25 + 1)
    assert [x.grid for x in rounds] == [(12,), (12,), (2,)]
    assert all(x.args[8].nbytes == 12 * 32768 * 8 for x in rounds)


def test_slots_that_are_not_the_rule_s_own_are_refused_and_nothing_is_written():
    rule, w = mo.MicroAdam(), np.ones((4, 60), np.float32)
    state = rule.init_leaf(w)
    for name, wrong in (
        ("I", state["I"][:-1]),
        ("V", state["V"].astype(np.float32)),
        ("e", np.zeros(240, np.uint8)[::2]),
        ("e_min", np.zeros(5, state["e_min"].dtype)),
    ):
        with Simulated().running(), pytest.raises(BackendError, match=f"{name}: got .* of shape"):
            microadam.step(rule, w, w.copy(), {**state, name: wrong})
    with Simulated().running(), pytest.raises(BackendError, match="gradient: got"):
        microadam.step(rule, w, np.ones((4, 50), np.float32), state)
    exact = mo.MicroAdam(error_bits=None)
    with Simulated().running(), pytest.raises(BackendError, match="e: got"):
        microadam.step(exact, w, w.copy(), {**exact.init_leaf(w), "e": np.zeros(240, np.float32)})
    assert np.all(w == 1)
    assert state["t"] == 0


def test_which_rules_are_served():
    def reason(rule, shape=(10_000,), dtype=F32):
        fits, why = microadam.supports(rule, shape, dtype)
        assert fits == (why == "one pass, a block of threads a Top-K block")
        return why

    assert all(microadam.supports(rule, (10_000,), F32)[0] for rule in RULES.values())
    assert reason(mo.MicroAdam(bucket=100)) == "a bucket of 100 entries can lie in two Top-K blocks of 4096"
    assert "share a byte" in reason(mo.MicroAdam(block=99, bucket=33))
    assert microadam.supports(mo.MicroAdam(bucket=100_000), (64, 64), F32)[0], "one block"
    assert reason(mo.MicroAdam(rounding="stochastic")) == "stochastic rounding of the error has no kernel"
    assert reason(mo.MicroAdam(), dtype=np.dtype(object)) == "no kernel for object"
    assert reason(mo.Adam()) == ""


# Through the optimizer, on arrays that stand in for a device's


def numbers(seed):
    return {"w": hard((70, 90), seed=seed, share=0), "b": hard((33,), seed=seed + 50, share=0)}


@pytest.fixture
def _cupy(monkeypatch):
    with instead(SimulatedDevice()):
        install(monkeypatch)
        yield


@simulated
@pytest.mark.usefixtures("_cupy")
def test_the_optimizer_steps_device_arrays_and_checkpoints_come_and_go(tmp_path):
    rule = mo.MicroAdam(**SHORT, learning_rate=mo.schedules.WarmUp(0.1, steps=3))
    groups = [("b", RULES["exact"])]
    on_host = mo.Optimizer(numbers(0), rule, groups=groups, backend="numpy")
    there = {name: on_device(x) for name, x in numbers(0).items()}
    device = mo.Optimizer(there, rule, groups=groups)
    assert device.explain().count("cupy.microadam") == 2
    for k in range(4):
        on_host.step(numbers(k + 1))
        device.step({name: on_device(g) for name, g in numbers(k + 1).items()})
    for opt, name in ((on_host, "host"), (device, "device")):
        opt.save(tmp_path / name, params=True)
    assert (tmp_path / "host").read_bytes() == (tmp_path / "device").read_bytes()
    blank = {name: on_device(np.zeros_like(x)) for name, x in numbers(0).items()}
    resumed = mo.Optimizer.load(tmp_path / "host", blank)
    assert all(type(x) is Stand for x in resumed.state["leaves"]["w"].values() if np.ndim(x))
    back = mo.Optimizer.load(tmp_path / "device", {name: np.zeros_like(x) for name, x in numbers(0).items()})
    resumed.step({name: on_device(g) for name, g in numbers(9).items()})
    for opt in (on_host, back):
        opt.step(numbers(9))
    for name, w in on_host.params.items():
        assert same_bits(plain(blank[name]), w)
        assert same_bits(back.params[name], w)
