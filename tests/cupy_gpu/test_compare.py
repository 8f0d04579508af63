"""The main job with its optimizers on a device: the perplexities of the host, and nothing moved unseen."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.cli import main
from memopt_ref.demo import compare, places, report, train
from memopt_ref.demo.contenders import CONTENDERS
from memopt_ref.demo.corpus import read_corpus
from memopt_ref.demo.train import Trial
from memopt_ref.errors import BackendError
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import Gpu, simulated
from tests.cupy_gpu.stand_in import Stand, install

pytestmark = simulated
has_cupy = next(row for row in backends.status() if row.name == "cupy").available


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    ranks = np.minimum(np.random.default_rng(0).zipf(1.3, 6000), 300)
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(f"w{chr(97 + r % 26)}{chr(97 + r // 26)}" for r in ranks))
    return path


@pytest.fixture
def cupy(monkeypatch):
    """A module ``cupy`` whose arrays are stand-ins, kernels simulated without their checks."""
    monkeypatch.setenv("MEMOPT_TUNE", "off")
    monkeypatch.setattr(train, "CURVE_POSITIONS", 200)
    monkeypatch.setattr(train, "TEST_POSITIONS", 200)
    with instead(SimulatedDevice("plain")) as device:
        module = install(monkeypatch)
        module.launches = device.launches
        yield module


def has_kernels(contender):
    """Whether both of its rules have a kernel for the arrays of a device."""
    shapes = [(contender.rule, (30, 4)), (contender.on_tables, (30, 4)), (contender.rule, (4,))]
    served = [
        any(
            v.supports(rule, shape, np.dtype("float32"))[0]
            for v in backends.registry.known("cupy", "").variants()
        )
        for rule, shape in shapes
    ]
    return all(served)


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.key)
def test_a_run_on_the_device_is_the_run_on_the_host(cupy, text, contender):
    corpus = read_corpus(str(text))
    trial = Trial(contender, contender.rates[0], seed=1, steps=3, final=False, backend="numpy")
    if not has_kernels(contender):
        with pytest.raises(BackendError, match="cupy-host"):
            train.train(corpus, replace(trial, backend="cupy"))
        return
    host, device = (train.train(corpus, replace(trial, backend=name)) for name in ("numpy", "cupy"))
    assert cupy.launches
    assert device.curve == host.curve
    assert device.state_nbytes == host.state_nbytes


@pytest.mark.gpu
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda c: c.key)
def test_a_run_on_a_gpu_is_the_run_on_the_host(text, contender):
    Gpu()
    corpus = read_corpus(str(text))
    trial = Trial(contender, contender.rates[0], seed=1, steps=20, final=False, backend="numpy")
    host, device = (train.train(corpus, replace(trial, backend=name)) for name in ("numpy", "cupy-host"))
    assert device.curve == host.curve


def test_parameters_that_are_not_fetched_are_noticed(cupy, text, monkeypatch):
    corpus = read_corpus(str(text))
    trial = Trial(CONTENDERS[0], 2.0, seed=1, steps=3, final=False, backend="cupy")
    expected = train.train(corpus, trial).curve
    monkeypatch.setattr(places.Device, "fetch", lambda self: None)
    assert train.train(corpus, trial).curve != expected


def test_gradients_go_to_the_device_as_they_are(cupy):
    there = places.Device({"a": np.ones((4, 2), np.float32), "b": np.ones(3, np.float32)})
    sparse = mo.RowSparse(np.array([1, 3]), np.ones((2, 2), np.float32), (4, 2))
    moved = there.gradients({"a": sparse, "b": np.ones(3, np.float32)})
    assert type(moved["b"]) is Stand
    assert type(moved["a"]) is mo.RowSparse
    assert type(moved["a"].rows) is type(moved["a"].indices) is Stand


def test_the_command_runs_them_there(cupy, text, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def here(corpus, number):
        """All runs in this process, where the stand-in is."""

        def run_all(trials, tell):
            runs = [train.train(corpus, trial) for trial in trials]
            for k, run in enumerate(runs):
                tell(run, len(runs) - 1 - k)
            return runs

        yield run_all

    monkeypatch.setattr(compare, "workers", here)
    options = ["--rules", "adagrad", "--quick", "--steps", "16", "--seeds", "1", "--json"]
    options += ["--corpus", str(text), "--output", str(tmp_path / "page.html")]
    told = [
        json.loads(CliRunner().invoke(main, ["compare", *options, "--backend", name]).stdout)
        for name in ("numpy", "cupy")
    ]
    seconds = ("seconds", "time")

    def figures(value):
        if isinstance(value, dict):
            return {k: figures(v) for k, v in value.items() if not any(s in k for s in seconds)}
        return [figures(v) for v in value] if isinstance(value, list) else value

    assert cupy.launches
    mine, other = (json.dumps(figures(t)).replace('"cupy"', '"numpy"') for t in told)
    assert mine == other


@pytest.mark.skipif(has_cupy, reason="CuPy is installed")
def test_without_cupy_the_command_says_what_to_install(text, tmp_path):
    options = ["--backend", "cupy", "--corpus", str(text), "--output", str(tmp_path / "page.html")]
    answer = CliRunner().invoke(main, ["compare", *options])
    assert answer.exit_code == 2
    assert "cupy is not installed: pip install 'memopt-ref[cuda12]'" in answer.output.lower()
    assert not (tmp_path / "page.html").exists()


def test_the_times_say_what_they_leave_out(cupy, text):
    corpus = read_corpus(str(text))
    assert places.library_of("cupy") == "cupy"
    assert places.library_of("auto") == "numpy"
    contender = CONTENDERS[0]
    run = train.train(corpus, Trial(contender, 2.0, 0, 3, final=False, backend="cupy"))
    found = type("Found", (), {})()
    found.finals, found.workers, found.summaries = {"sgd": (run,)}, 1, list
    assert "of parameters back count for neither" in report.times(found).note
