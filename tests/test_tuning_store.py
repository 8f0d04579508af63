"""Measured choices on disk: never lost by company or a kill, and never a reason to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.tuning import exchange, settle, store
from memopt_ref.checkpoint import files
from memopt_ref.errors import TuningError
from tests.tuning_toys import FAST, SLOW, paused, toy, toys

__all__ = ["toys"]

POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def step():
    opt = mo.Optimizer({"w": np.ones(96, np.float32)}, mo.Adam())
    opt.step({"w": np.ones(96, np.float32)})
    return opt._choices["w"].knobs


@pytest.fixture
def measured(toys):
    """The file of the one key that has been measured."""
    toys(toy(paused, {"pause": (SLOW, FAST)}))
    assert step() == {"pause": FAST}
    settle.forget()
    (path,) = store.places()
    return path


# Many processes ---------------------------------------------------------------------------------------------


def writers(what, folder, *options):
    command = [sys.executable, "-W", "error", "-m", "tests.tuning_writers", what, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@POSIX
def test_16_processes_that_write_at_once_lose_no_entry(tmp_path):
    found = writers("write", tmp_path)
    assert found == {"failed": 0, "wanted": 196, "kept": 196}


@POSIX
def test_one_file_for_all_loses_entries(tmp_path):
    found = writers("write", tmp_path, "naive")
    assert found["kept"] < found["wanted"] or found["failed"]


@POSIX
def test_16_processes_that_tune_at_once_measure_each_key_once_and_all_know_it(tmp_path):
    assert writers("tune", tmp_path) == {"failed": 0, "wanted": 4, "kept": 4, "measured": 4}


@POSIX
def test_a_writer_killed_at_any_moment_leaves_a_readable_store(tmp_path):
    found = writers("kill", tmp_path)
    assert found == {"lost": 0, "hindered": 0, "left": 0}


@POSIX
def test_the_kills_hit_a_writer_that_writes_over_the_old_file(tmp_path):
    assert writers("kill", tmp_path, "naive")["lost"] > 0


# Damage -----------------------------------------------------------------------------------------------------


def truncated(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def no_text(content):
    return bytes(range(256))


def foreign(content):
    return b'{"schema": 3, "best": "fast"}'


def another_key(content):
    return content.replace(b"float32[64]", b"float32[65]")


def another_kernel(content):
    return content.replace(b'"variant": "toy.paused"', b'"variant": "toy.gone"')


def another_setting(content):
    return content.replace(b'"pause": 0.001', b'"pause": 0.5')


def of_another_type(content):
    return content.replace(b'"rounds": 25', b'"rounds": "many"')


def with_more(content):
    return content.replace(b'"rounds": 25', b'"rounds": 25, "extra": 1')


DAMAGE = [
    truncated,
    emptied,
    no_text,
    foreign,
    another_key,
    another_kernel,
    another_setting,
    of_another_type,
    with_more,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda d: d.__name__)
def test_a_damaged_or_foreign_file_costs_a_warning_and_a_measurement(measured, damage):
    before = measured.read_bytes()
    assert damage(before) != before
    measured.write_bytes(damage(before))
    with pytest.warns(RuntimeWarning, match="this costs time, never correctness"):
        assert step() == {"pause": FAST}
    settle.forget()
    assert store.read_file(measured).knobs == {"pause": FAST}, "it was replaced"
    with mo.tuning.use_mode("load"):
        assert step() == {"pause": FAST}


def test_seconds_that_make_no_sense_are_no_error(measured):
    for seconds in (0.0, -1.0, 1e300):
        edited(measured, lambda c, seconds=seconds: c["seconds"].update({"toy.paused(pause=0.001)": seconds}))
        settle.forget()
        assert step() == {"pause": FAST}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this platform")
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(measured):
    measured.unlink()
    os.mkfifo(measured)
    with pytest.warns(RuntimeWarning, match="damaged or foreign"):
        assert step() == {"pause": FAST}


def test_a_file_that_is_far_too_long_is_not_read(measured):
    with measured.open("r+b") as file:
        file.truncate(store.LONGEST + 1)
    with pytest.raises(ValueError, match="sensible size"):
        store.read_file(measured)


def test_a_folder_that_cannot_be_made_costs_one_warning_and_the_choice_is_made(toys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path / "file"))
    toys(toy(paused, {"pause": (SLOW, FAST)}))
    with pytest.warns(RuntimeWarning, match="measured speeds are not kept in"):
        assert step() == {"pause": FAST}
    settle.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step() == {"pause": FAST}


def test_a_full_disk_costs_a_warning_and_leaves_nothing_half_written(toys, monkeypatch):
    def full(fd, data):
        raise OSError(28, "No space left on device")

    toys(toy(paused, {"pause": (SLOW, FAST)}))
    store.prepared()
    before = set(store.folder().iterdir())
    monkeypatch.setattr(files.os, "write", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert step() == {"pause": FAST}
    monkeypatch.undo()
    assert {p.name for p in before} <= {"environment.json"}


def test_another_environment_has_another_folder_and_the_old_one_stays(measured, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert store.places() == []
    assert step() == {"pause": FAST}
    settle.forget()
    assert len(store.places()) == 1
    assert measured.exists()
    assert mo.tuning.clear() == 1
    assert measured.exists()
    assert mo.tuning.clear(everywhere=True) == 1
    assert not measured.parent.exists()


# Wisdom -----------------------------------------------------------------------------------------------------


def test_what_is_exported_is_imported_and_equal_contents_are_equal_bytes(measured, tmp_path):
    wisdom = tmp_path / "wisdom.json"
    assert mo.tuning.export_wisdom(wisdom) == 1
    before, entry = wisdom.read_bytes(), store.read_file(measured)
    assert mo.tuning.clear() == 1
    assert mo.tuning.import_wisdom(wisdom) == 1
    assert store.read_file(measured) == entry
    mo.tuning.export_wisdom(wisdom)
    assert wisdom.read_bytes() == before
    with mo.tuning.use_mode("load"):
        assert step() == {"pause": FAST}


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["environment"].update(processor="another"), "made with another processor"),
        (lambda c: c["environment"].update(sources="0"), "made with another sources"),
        (lambda c: c["environment"].pop("libraries"), "made with another libraries"),
        (lambda c: c["entries"].append(c["entries"][0]), "a key twice"),
        (lambda c: c["entries"].append({"key": "x"}), "missing required field"),
        (lambda c: c["entries"][0].update(variant=3), "Expected `str`"),
        (lambda c: c.update(more=1), "unknown field"),
        (lambda c: c.clear(), "missing required field"),
    ],
)
def test_wisdom_that_is_not_ours_or_not_whole_is_refused_whole(measured, tmp_path, change, match):
    wisdom = tmp_path / "wisdom.json"
    mo.tuning.export_wisdom(wisdom)
    edited(wisdom, change)
    before = measured.read_bytes()
    with pytest.raises(TuningError, match=match):
        mo.tuning.import_wisdom(wisdom)
    assert measured.read_bytes() == before
    assert store.places() == [measured]


def test_wisdom_that_cannot_be_kept_to_the_end_is_not_kept_at_all(measured, tmp_path, monkeypatch):
    wisdom = tmp_path / "wisdom.json"
    mo.tuning.export_wisdom(wisdom)

    def more(content):
        first = content["entries"][0]
        content["entries"] += [first | {"key": f"another {k}", "rounds": 9} for k in range(3)]
        first["rounds"] = 8

    edited(wisdom, more)
    before, put, calls = measured.read_bytes(), store.put, []

    def third_fails(path, data):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        put(path, data)

    monkeypatch.setattr(exchange.store, "put", third_fails)
    with pytest.raises(TuningError, match=r"No space left on device.*What was known is as it was"):
        mo.tuning.import_wisdom(wisdom)
    assert len(calls) > 3
    assert measured.read_bytes() == before
    assert store.places() == [measured]


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path):
    with pytest.raises(TuningError, match=r"gone\.json: got No such file"):
        mo.tuning.import_wisdom(tmp_path / "gone.json")
    with pytest.raises(TuningError, match="wanted a file that can be written"):
        mo.tuning.export_wisdom(tmp_path / "no" / "folder.json")


def test_neither_hosts_nor_paths_are_exported(measured, tmp_path):
    wisdom = tmp_path / "wisdom.json"
    mo.tuning.export_wisdom(wisdom)
    told = {"schema", "python", "machine", "processor", "processors", "libraries", "settings", "sources"}
    assert json.loads(wisdom.read_text())["environment"].keys() == told
    assert str(tmp_path) not in wisdom.read_text()
