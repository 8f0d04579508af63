"""Many tensors in one launch: the bits of one step after the other."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends import numpy_ref
from memopt_ref.backends.cupy_gpu import many
from memopt_ref.backends.cupy_gpu.device import RecordingDevice, instead
from memopt_ref.backends.registry import Leaf
from memopt_ref.errors import BackendError
from tests.cupy_gpu.machines import MACHINES, settled
from tests.numba_cpu.inputs import hard, same_bits

SIZES = ((0,), (1,), (5,), (7,), (768,), (16, 64), (1024,), (1025,), (2100,), ())


def leaves_of(rule, dtype="float32", machine=None):
    """Leaves of several sizes, each with a clock of its own."""
    for k, shape in enumerate(SIZES):
        w, g = hard(shape, dtype, seed=k, share=0.05), hard(shape, dtype, seed=40 + k)
        state = settled(rule, w)
        if "t" in state:
            state["t"] = np.int64(k)
        to = machine.to if machine else lambda x: x
        yield Leaf(rule, to(w), to(g), {name: to(x) for name, x in state.items()}, {})


@pytest.mark.parametrize("make", MACHINES)
@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        (mo.Adam(), "float32"),
        (mo.AdamW(weight_decay=0.1), "bfloat16"),
        (mo.SGD(momentum=0.9), "float64"),
    ],
    ids=str,
)
def test_tensors_of_all_sizes_are_stepped_together(rule, dtype, make):
    machine = make()
    leaves = list(leaves_of(rule, dtype, machine))
    expected = list(leaves_of(rule, dtype))
    with machine.running():
        left = many.together(leaves, 1.0, 1.0, False)
    assert left == [0]
    for leaf, other in zip(leaves[1:], expected[1:], strict=True):
        numpy_ref.step(rule, other.w, other.g, other.state)
        assert same_bits(machine.back(leaf.w), other.w)
        for name, x in other.state.items():
            assert same_bits(machine.back(leaf.state[name]), x), name


def test_there_are_as_few_launches_as_expressions_dtypes_and_alignments():
    leaves = [*leaves_of(mo.Adam()), *leaves_of(mo.Adam(learning_rate=0.1)), *leaves_of(mo.SGD())]
    room = np.zeros(64, np.float32)
    shift = (-room.ctypes.data % 16) // 4 + 1
    leaves.append(Leaf(mo.SGD(), room[shift : shift + 9], np.ones(9, np.float32), {}, {}))
    device = RecordingDevice()
    with instead(device):
        many.together(leaves, 1.0, 1.0, False)
    names = [launch.kernel.name for launch in device.launches]
    assert names.count("adam_table") + names.count("sgd_table") == len(names)
    assert 2 <= len(names) <= 6
    table, numbers, tensor_of = device.launches[0].args
    assert table.dtype == np.uint64
    assert numbers.dtype == np.float32
    assert tensor_of.dtype == np.int32
    assert device.launches[0].grid == (tensor_of.size,)


def test_what_cannot_be_stepped_together_is_left_untouched():
    large = np.ones(many.LARGE + 1, np.float32)
    wide = np.ones((4, 8), np.float32)
    leaves = [
        Leaf(mo.SGD(), large, np.ones_like(large), {}, {}),
        Leaf(mo.SGD(), wide[:, ::2], np.ones((4, 4), np.float32), {}, {}),
        Leaf(mo.SGD(), np.ones(3, np.float32), np.ones(3, np.float32), {}, {}),
    ]
    device = RecordingDevice()
    with instead(device):
        assert many.together(leaves, 1.0, 1.0, False) == [0, 1]
        assert many.together(leaves, 2.0, 1.0, False) == [0, 1, 2]
        assert many.together(leaves, 1.0, 0.5, False) == [0, 1, 2]
        assert many.together(leaves, 1.0, 1.0, True) == [0, 1, 2]
    assert len(device.launches) == 1


def test_a_leaf_that_does_not_fit_stops_the_step_before_it_begins():
    leaves = list(leaves_of(mo.Adam()))
    wrong = leaves[-1]
    leaves[-1] = wrong._replace(state={**wrong.state, "m": np.zeros(3, np.float32)})
    before = copy.deepcopy(leaves[1].w)
    with instead(RecordingDevice()), pytest.raises(BackendError, match="m: got float32"):
        many.together(leaves, 1.0, 1.0, False)
    assert same_bits(leaves[1].w, before)
    assert leaves[1].state["t"] == 1
