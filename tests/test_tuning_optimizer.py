"""The tuner as an Optimizer sees it: when it measures, what it takes and says, and that no bit changes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends import registry
from memopt_ref.backends.tuning import machine, measure, modes, settle, store
from memopt_ref.parts.row_sparse import RowSparse
from tests.tuning_toys import FAST, REFERENCE, SLOW, one_bit_off, paused, quick, toy, toys

__all__ = ["toys"]

N = 96
PAUSES = {"pause": (SLOW, FAST)}


def optimizer(backend="auto", rule=mo.Adam(), n=N):  # noqa: B008
    return mo.Optimizer({"w": np.ones(n, np.float32)}, rule, backend=backend)


def step(opt, g=None):
    (w,) = opt.params.values()
    opt.step({"w": np.full_like(w, 0.5) if g is None else g})
    return opt._choices["w"]


@contextlib.contextmanager
def no_measuring():
    def fails(*arguments, **options):
        raise AssertionError("it measured")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "timed", fails)
        yield


def test_the_first_step_measures_and_the_next_optimizer_and_process_know(toys):
    toys(toy(paused, PAUSES))
    opt = optimizer(rule=mo.Adam(learning_rate=0.5))
    assert opt._choices["w"].knobs == {}, "making it measures nothing"
    assert step(opt).knobs == {"pause": FAST}
    (path,) = store.places()
    with no_measuring():
        assert step(optimizer()).knobs == {"pause": FAST}, "known in this process"
        settle.forget()
        with mo.tuning.use_mode("load"):
            assert step(optimizer()).knobs == {"pause": FAST}, "read from disk"
        path.unlink()
        assert step(optimizer()).knobs == {"pause": FAST}, "read once"


def test_a_second_look_opens_no_file_and_makes_no_key(toys, monkeypatch):
    toys(toy(paused, PAUSES))
    choice, rule, w = optimizer()._choices["w"], mo.Adam(), np.ones(N, np.float32)
    first = settle.settled(choice, rule, w)
    for name in ("key_of", "stored", "candidates"):
        monkeypatch.setattr(settle, name, None)
    assert settle.settled(choice, rule, w) == first
    assert settle.settled(choice, mo.Adam(learning_rate=1e-3), w.copy()) == first


def test_another_kernel_than_the_first_is_taken_where_it_is_faster(toys):
    toys(toy(paused), toy(quick))
    choice = step(optimizer())
    assert (choice.variant.name, choice.backend.name) == ("toy.quick", "toy")
    assert [variant.name for variant, _ in choice.rivals] == ["toy.paused", "numpy_ref"]


def test_a_backend_that_was_asked_for_is_kept(toys):
    toys(toy(paused), toy(quick))
    assert step(optimizer("toy")).variant.name == "toy.quick"
    assert step(optimizer("numpy")).variant.name == "numpy_ref"


@pytest.mark.parametrize("mode", ["off", "load"])
def test_off_and_load_measure_nothing(toys, mode):
    toys(toy(paused, PAUSES))
    with mo.tuning.use_mode(mode), no_measuring():
        assert step(optimizer()).knobs == {}
    assert store.places() == []


def test_off_does_not_look_at_what_is_stored(toys):
    toys(toy(paused, PAUSES))
    step(optimizer())
    settle.forget()
    with mo.tuning.use_mode("off"):
        assert step(optimizer()).knobs == {}


def test_force_measures_again(toys, monkeypatch):
    toys(toy(paused, PAUSES))
    step(optimizer())
    (path,) = store.places()
    wrong = store.read_file(path)
    store.write(
        store.Entry(**{name: getattr(wrong, name) for name in wrong.__struct_fields__} | {"knobs": {}})
    )
    settle.forget()
    assert step(optimizer()).knobs == {}, "what is stored is believed"
    settle.forget()
    with mo.tuning.use_mode("force"):
        assert step(optimizer()).knobs == {"pause": FAST}
    assert store.read_file(path).knobs == {"pause": FAST}


def test_small_tensors_and_those_without_a_choice_are_left_alone(toys, monkeypatch):
    toys(toy(quick))
    with no_measuring():
        step(optimizer(n=settle.SMALLEST - 1))
    toys()
    with no_measuring():
        step(optimizer())
    monkeypatch.undo()
    assert settle.SMALLEST == 2**16


def test_kernels_with_bits_of_their_own_are_neither_measured_nor_rivals(toys, monkeypatch):
    flush = toy(one_bit_off, PAUSES | {"nothing": (0,)}, numerics="fma")
    backend = toys(flush, toy(quick))
    own = dataclasses.replace(backend, automatic=False, numerics="fma")
    monkeypatch.setattr(registry, "_backends", {"toy": own, "numpy": registry.known("numpy", "a test")})
    with no_measuring():
        choice = step(optimizer("toy"))
    assert (choice.variant.name, choice.rivals) == ("toy.one_bit_off", ())


def test_a_row_sparse_gradient_waits_for_a_dense_one(toys):
    toys(toy(paused, PAUSES))
    opt = mo.Optimizer({"w": np.ones((12, 8), np.float32)}, mo.SGD())
    with no_measuring():
        step(opt, RowSparse(np.array([1]), np.ones((1, 8), np.float32), (12, 8)))
    assert step(opt).knobs == {"pause": FAST}


def test_a_process_measures_for_so_long_and_no_longer(toys, monkeypatch):
    toys(toy(paused, PAUSES))
    monkeypatch.setattr(settle, "PROCESS_SECONDS", 0.0)
    opt = optimizer()
    with no_measuring():
        assert step(opt).knobs == {}
    assert "not measured: the 0 s that a process may measure are over" in opt.explain()
    monkeypatch.setattr(settle, "PROCESS_SECONDS", 2.0)
    settle.forget()
    step(optimizer())
    compared = 2 * (REFERENCE + SLOW + FAST)
    assert settle._spent == pytest.approx(compared + (2 + measure.ROUNDS) * SLOW + measure.ROUNDS * FAST)


def test_what_is_measured_in_company_is_neither_taken_nor_kept(toys, monkeypatch):
    toys(toy(paused, PAUSES))
    monkeypatch.setattr(machine, "company", lambda: lambda: 0.25)
    opt = optimizer()
    assert step(opt).knobs == {}
    assert "not measured: other work took 25 % of the processors meanwhile" in opt.explain()
    assert store.places() == []
    with no_measuring():
        step(optimizer(n=8 * N))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_measures_nothing_and_takes_what_is_known(toys):
    toys(toy(paused, PAUSES))
    step(optimizer())
    with settle._turn:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with no_measuring():
                    known, other = optimizer(), optimizer(n=8 * N)
                    step(other)
                    code = 0 if step(known).knobs and "process was forked" in other.explain() else 2
            finally:
                os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert step(optimizer(n=8 * N)).knobs, "the parent measures as before"


def test_explain_says_where_a_choice_comes_from(toys):
    toys(toy(paused, PAUSES))
    opt = optimizer("toy")
    assert opt.explain() == optimizer("toy").explain()
    step(opt)
    said = opt.explain()
    assert "backend='toy'; toy.paused(pause=0.001) was measured " in said
    assert " % faster than toy.paused;" in said
    assert optimizer("toy").explain() == said, "another optimizer knows it before its first step"
    toys(toy(quick, {"nothing": (0,)}), toy(paused))
    opt = optimizer("toy")
    step(opt)
    assert "nothing was measured clearly faster than toy.quick" in opt.explain()


def test_an_unbounded_list_of_shapes_is_a_handful_of_keys(toys):
    toys(toy(paused, PAUSES))
    for n in range(64, 128, 7):
        step(optimizer(n=n))
    assert len(store.places()) == 1


# Mistakes ---------------------------------------------------------------------------------------------------


def test_a_wrong_kernel_is_not_taken_however_fast_it_is(toys):
    toys(toy(paused), toy(one_bit_off))
    opt = optimizer()
    with pytest.warns(RuntimeWarning, match="toy.one_bit_off is left out"):
        choice = step(opt)
    assert choice.variant.name != "toy.one_bit_off"
    (path,) = store.places()
    assert "has not the bits" in store.read_file(path).wrong["toy.one_bit_off"]


def test_a_wrong_default_is_not_even_stepped_and_explain_says_why(toys):
    toys(toy(one_bit_off))
    opt, other = optimizer(), optimizer("numpy")
    with pytest.warns(RuntimeWarning, match="toy.one_bit_off is left out"):
        step(opt)
    step(other)
    assert opt.params["w"].tobytes() == other.params["w"].tobytes()
    assert "numpy_ref takes the place of toy.one_bit_off: w has not the bits" in opt.explain()


def test_a_warning_that_is_an_error_leaves_the_optimizer_as_it_was(toys):
    toys(toy(one_bit_off))
    opt = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="left out"):
            step(opt)
    assert opt.step_count == 0
    assert np.all(opt.params["w"] == 1)
    with pytest.warns(RuntimeWarning, match="left out"):
        step(opt)
    assert opt.step_count == 1


def test_a_rule_that_takes_its_own_size_alone_is_not_measured(toys):
    toys(toy(paused, PAUSES))
    cover = mo.IndexCover(tuple((k,) for k in range(N)))
    opt = optimizer(rule=mo.SM3(variant="I", cover=cover))
    with no_measuring():
        assert step(opt).knobs == {}


def test_whatever_goes_wrong_with_measuring_the_step_is_made(toys, monkeypatch):
    def no_memory(*arguments, **options):
        raise MemoryError("no 64 MiB")

    toys(toy(paused, PAUSES))
    monkeypatch.setattr(measure.inputs, "make", no_memory)
    opt = optimizer()
    assert step(opt).knobs == {}
    assert opt.step_count == 1
    assert "not measured: MemoryError: no 64 MiB" in opt.explain()


def test_an_interrupt_while_measuring_leaves_everything_as_it_was(toys):
    interrupts = [KeyboardInterrupt]

    def interrupted(rule, w, g, state):
        if interrupts:
            raise interrupts.pop()
        quick(rule, w, g, state)

    toys(toy(paused), toy(interrupted))
    opt = optimizer()
    with pytest.raises(KeyboardInterrupt):
        step(opt)
    assert (opt.step_count, opt._torn) == (0, None)
    assert np.all(opt.params["w"] == 1)
    assert step(opt).variant.name == "toy.interrupted"
    assert opt.step_count == 1


def test_a_rule_that_cannot_be_hashed_is_stepped_by_the_default(toys):
    class Odd(mo.SGD):
        __hash__ = None

    toys(toy(paused, PAUSES))
    with no_measuring():
        opt = optimizer(rule=Odd())
        assert step(opt).knobs == {}
        assert "toy.paused" in opt.explain()


# Random -----------------------------------------------------------------------------------------------------


def test_random_draws_every_kernel_with_every_setting_and_changes_no_bit(toys, monkeypatch):
    toys(toy(paused, {"pause": (0.0, 1e-5)}), toy(quick))
    monkeypatch.setenv("MEMOPT_TUNE", "random")
    reference = optimizer("numpy")
    step(reference)
    seen = set()
    for _ in range(60):
        opt = optimizer()
        choice = step(opt)
        seen.add((choice.variant.name, *choice.knobs.values()))
        assert opt.params["w"].tobytes() == reference.params["w"].tobytes()
        assert "was drawn at random (seed 0)" in opt.explain()
    assert seen == {("toy.paused",), ("toy.paused", 1e-5), ("toy.quick",), ("numpy_ref",)}
    assert store.places() == []


def test_a_kernel_with_other_bits_is_caught_by_random(toys, monkeypatch):
    toys(toy(one_bit_off), toy(quick))
    monkeypatch.setenv("MEMOPT_TUNE", "random")
    results = set()
    for _ in range(30):
        opt = optimizer()
        step(opt)
        results.add(opt.params["w"].tobytes())
    assert len(results) == 2


def test_the_seed_decides_what_random_draws(toys, monkeypatch):
    toys(toy(paused, {"pause": (0.0, 1e-5)}), toy(quick))
    monkeypatch.setenv("MEMOPT_TUNE", "random")

    def drawn(seed):
        monkeypatch.setenv("MEMOPT_TUNE_SEED", seed)
        monkeypatch.setattr(modes, "_drawn", iter(range(100)))
        return [optimizer()._choices["w"].why for _ in range(20)]

    assert drawn("7") == drawn("7")
    assert drawn("7") != drawn("8")


# The compiled kernels ---------------------------------------------------------------------------------------


def test_compiled_kernels_are_measured_and_keep_their_bits(monkeypatch, tmp_path):
    if not backends.status()[0].available:
        pytest.skip(backends.status()[0].reason)
    folder = os.environ["MEMOPT_CACHE_DIR"]
    monkeypatch.setattr(store, "base_folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "company", lambda: lambda: 0.0)
    monkeypatch.setenv("MEMOPT_TUNE", "auto")
    settle.forget()
    g = np.random.default_rng(0).standard_normal((2, 300, 256)).astype(np.float32)
    results = []
    for backend in ("auto", "numpy"):
        w = np.ones((300, 256), np.float32)
        opt = mo.Optimizer(w, mo.SGD(learning_rate=0.5), backend=backend)
        opt.step(g[0])
        opt.step(g[1])
        results.append(w.tobytes())
        if backend == "auto":
            (path,) = store.places()
            entry = store.read_file(path)
            assert entry.default == "numba.elementwise"
            assert {"numba.elementwise", "numba.elementwise(threads=1)"} <= entry.seconds.keys()
            assert "numpy_ref" in entry.seconds.keys() | entry.slow.keys()
            assert not entry.wrong
            assert "measured" in opt.explain()
    assert results[0] == results[1]
    assert os.environ["MEMOPT_CACHE_DIR"] == folder
    settle.forget()
