"""A GPU's table: checked before it is timed, counted right, fit to be committed, kind where there is none."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from memopt_ref import backends
from memopt_ref.backends import cupy_gpu
from memopt_ref.backends.cupy_gpu import elementwise
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.backends.tuning import inputs
from memopt_ref.bench import gpu, gpu_rows, peers, tracks
from memopt_ref.errors import BackendError
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import Clocked, Stand, install, on_device, plain
from tests.numba_cpu.inputs import same_bits

has_cupy = next(row for row in backends.status() if row.name == "cupy").available
ENTRIES = 2**12
ROOT = Path(__file__).parents[2]


class Simulated:
    """A machine whose copy moves a gigabyte a second, and whose torch takes three milliseconds."""

    about = {"device": "A Device sm_90, driver 1", "processors": 4}

    def __init__(self, device, has_torch=True):
        self.device, self.clock, self.has_torch = device, device.clock, has_torch

    def free(self):
        return gpu_rows.needed(gpu_rows.gpu_rows(ENTRIES)[-1]) * 5

    def array(self, shape, seed, scale=1.0):
        return on_device(tracks.normal(shape, seed, scale))

    def copy(self, entries):
        return self.after(8 * entries / 1e9)

    def torch(self, name, shapes):
        assert name in peers.TORCH
        assert peers.TORCH[name][1]["fused"]
        return self.after(3e-3) if self.has_torch else None

    def after(self, seconds):
        def step():
            self.device.now += seconds

        return step


@pytest.fixture
def machine(monkeypatch):
    """A module ``cupy`` whose arrays are stand-ins, on a device where a launch takes 1e-4 s."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    monkeypatch.setattr(gpu, "SAMPLE", 1e-6)
    monkeypatch.setattr(inputs, "CHECKED", 2**10)
    install(monkeypatch)
    with instead(Clocked(price=lambda kernel: 1e-4)) as device:
        yield Simulated(device)


def row_of(name, entries=ENTRIES):
    return next(row for row in gpu_rows.gpu_rows(entries) if row.name == name)


@simulated
def test_figures_are_counted_on_the_bytes_of_the_rule(machine):
    found = gpu.measure(machine, row_of("Adam"), rounds=2)
    assert found.seconds == pytest.approx(1e-4)
    assert found.copy == pytest.approx(8 * ENTRIES / 1e9)
    assert found.fraction == pytest.approx((28 * ENTRIES / 1e-4) / 1e9)
    assert found.of_torch == pytest.approx(1e-4 / 3e-3)
    assert "cupy.elementwise" in found.said
    assert found.verdict == "goal"


def test_a_verdict_takes_bandwidth_and_torch_together():
    def verdict(name, fraction, of_torch):
        row = row_of(name)
        copy = 1.0
        ours = gpu_rows.bytes_of(row) / 8 * copy / fraction
        return gpu.Result(row, "", ours, None if of_torch is None else ours / of_torch, copy).verdict

    assert [verdict("Adam", f, 0.9) for f in (0.93, 0.9, 0.5)] == ["goal", "bar", "under"]
    assert verdict("Adam", 0.93, 1.1) == "under"
    assert verdict("Adam", 0.93, None) == "-"
    assert [verdict("MicroAdam", 0.1, t) for t in (0.5, 0.9, 1.1)] == ["goal", "bar", "under"]
    assert verdict("AdaGrad", 0.9, None) == "bar"


@simulated
def test_the_whole_table_is_plain_values_without_host_or_path(machine, tmp_path, capsys, monkeypatch):
    path = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(path), "--entries", str(ENTRIES), "--rounds", "1"], lambda: machine) == 0
    found = json.loads(path.read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == [row.name for row in gpu_rows.gpu_rows(ENTRIES) if gpu.served(row)]
    assert {"SGD", "AdaGrad", "Adam", "AdamW", "SM3", "Adafactor", "200 small tensors"} <= set(names)
    assert found["device"] == "A Device sm_90, driver 1"
    assert found["entries"] == ENTRIES
    assert found["copy_bytes_per_second"] == pytest.approx(1e9)
    assert str(tmp_path) not in path.read_text()
    small = found["rows"][-1]
    assert (small["tensors"], small["entries"]) == (200, 200 * gpu_rows.SMALL)
    assert small["seconds"] == pytest.approx(1e-4)  # one launch for all of them
    assert capsys.readouterr().out.count("of a copy") == len(names)


@simulated
def test_a_kernel_with_other_bits_makes_no_figure(machine, monkeypatch, tmp_path, capsys):
    def wrong(rule, w, g, state, **knobs):
        elementwise.step(rule, w, g, state, **knobs)
        w[...] = np.nextafter(w, np.float32(9))

    variant = dataclasses.replace(elementwise.VARIANTS[0], step=wrong)
    monkeypatch.setattr(cupy_gpu, "VARIANTS", (variant,))
    with pytest.raises(BackendError, match="a kernel with the bits of the reference"):
        gpu.check(machine, row_of("SGD"))
    path = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(path), "--entries", str(ENTRIES)], lambda: machine) == 2
    assert "error: A Device" in capsys.readouterr().err
    assert not path.exists()


@simulated
def test_without_torch_the_rest_is_measured(machine):
    found = gpu.measure(Simulated(machine.device, has_torch=False), row_of("AdaGrad"), rounds=1)
    assert found.torch is None
    assert found.as_record()["of_torch"] is None
    assert "   -   " in gpu.line(found)


@simulated
def test_steps_are_repeated_until_a_sample_lasts(machine, monkeypatch):
    monkeypatch.setattr(gpu, "SAMPLE", 1e-3)
    assert gpu._times(machine.after(1e-4), machine.clock) == 10
    assert gpu._times(machine.after(0.0), machine.clock) == gpu.MOST
    assert gpu._times(machine.after(1.0), machine.clock) == 1


def test_arrays_of_a_gpu_are_drawn_once_and_repeated_and_copies_are_whole(monkeypatch):
    library, copied = install(monkeypatch), []
    made = gpu.CuPyMachine.__new__(gpu.CuPyMachine)
    made._cupy = library
    monkeypatch.setattr(gpu, "DRAWN", 2**10)
    x = made.array((3, 700), 1, 1e-2)
    drawn = tracks.normal((2**10,), 1, 1e-2)
    assert type(x) is Stand
    assert x.dtype == np.float32
    assert same_bits(plain(x).ravel(), np.resize(drawn, 2100))

    class Data:
        def copy_from_device_async(self, source, nbytes):
            copied.append(nbytes)

    monkeypatch.setattr(Stand, "data", property(lambda self: Data()))
    made.copy(1000)()
    assert copied == [4000]


def test_every_target_is_a_row_and_counts_the_bytes_of_the_paper_on_slots():
    assert [gpu_rows.bytes_of(row) for row in gpu_rows.gpu_rows(2**20)] == [
        *(12.0, 20.0, 28.0, 28.0, pytest.approx(12, abs=0.02), 20.0, 10.1, pytest.approx(28, abs=0.01))
    ]
    for target in gpu_rows.TARGETS.values():
        assert target.goal is None or target.goal >= target.bar > 0
        assert target.torch_goal is None or target.torch_goal <= target.torch_bar
        assert target.peer in peers.TORCH
    assert gpu_rows.fitting(2**40) == gpu_rows.ENTRIES
    assert gpu_rows.needed(gpu_rows.gpu_rows(gpu_rows.fitting(2**32))[2]) <= 0.8 * 2**32


@pytest.mark.skipif(has_cupy, reason="CuPy is installed")
def test_without_a_gpu_it_is_said_what_it_takes(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: bench.gpu: got 'cupy'")
    assert "pip install 'memopt-ref[cuda12]'" in said
    assert not path.exists()


def test_the_target_of_make_says_so_before_it_installs_anything():
    if backends.fits.cupy()[0]:
        pytest.skip("there is a driver here")
    done = subprocess.run(
        ["make", "gpu-check"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "NVIDIA GPU" in done.stdout + done.stderr
    assert "pip" not in done.stdout
