"""Compiled kernels on disk: found again, made anew after an edit, and never a reason to fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import memopt_ref
from memopt_ref.rules.sgd import sgd

pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import bind, cache

ROOT = Path(memopt_ref.backends.__file__).parent.parent
PACKAGE = Path(memopt_ref.__file__).parent


def step(name="sgd-test"):
    """Bind a small kernel anew under a name; whether it came from disk, and what it computes."""
    text = "def loop(table, start, stop, numbers):\n    as_int64(numbers)[0] = stop - start\n"
    namespace = {"__name__": bind.__name__, "as_int64": bind.as_int64}
    exec(text, namespace)
    compiled = bind.compiled_function(namespace["loop"], bind.KERNEL, name)
    out = np.zeros(1, np.int64)
    compiled.ctypes(0, 2, 44, out.ctypes.data)
    return compiled.cache_hits, int(out[0])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    assert step() == (0, 42)
    (found,) = tmp_path.iterdir()
    return found


def test_a_kernel_is_found_again_and_only_the_user_can_put_one_there(folder):
    assert step() == (1, 42)
    assert folder.name.startswith("numba-")
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
        assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


def truncated(content):
    return content[:-10]


def beheaded(content):
    return content[5:]


def emptied(content):
    return b""


def flipped(content):
    return content[:2000] + bytes([content[2000] ^ 4]) + content[2001:]


def flipped_early(content):
    return content[:30] + bytes([content[30] ^ 4]) + content[31:]


def foreign(content):
    return b"something else altogether"


@pytest.mark.parametrize("damage", [truncated, beheaded, emptied, flipped, flipped_early, foreign])
def test_a_damaged_file_costs_one_compilation_and_a_warning(folder, damage):
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(RuntimeWarning, match="is damaged or foreign and is made anew"):
        assert step() == (0, 42)
    assert step() == (1, 42), "it was replaced"


def test_right_contents_that_are_no_kernel_cost_the_same(folder):
    (file,) = folder.iterdir()
    cache._write(file, b"not a pickle")
    with pytest.warns(RuntimeWarning, match="is damaged or foreign"):
        assert step() == (0, 42)
    assert step() == (1, 42)


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
def test_a_file_or_folder_that_another_user_could_write_is_not_read(folder, tmp_path, monkeypatch):
    (file,) = folder.iterdir()
    file.chmod(0o622)
    with pytest.warns(RuntimeWarning, match="another user can write it"):
        assert step() == (0, 42)
    cache._folder.cache_clear()
    folder.chmod(0o777)
    with pytest.warns(RuntimeWarning, match="can be written by another user"):
        assert step() == (0, 42)
    assert step() == (0, 42), "and it is said once"
    cache._folder.cache_clear()
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.warns(RuntimeWarning, match="not kept on disk"):
        assert step() == (0, 42)
    cache._folder.cache_clear()


@pytest.mark.skipif(os.name != "posix", reason="links are those of POSIX")
def test_a_link_is_not_followed(folder):
    (file,) = folder.iterdir()
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")
    with pytest.warns(RuntimeWarning, match="is damaged or foreign"):
        assert step() == (0, 42)
    assert not file.is_symlink()


def test_a_place_that_cannot_be_written_costs_the_compilation(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not kept on disk"):
        assert step() == (0, 42)
    assert step() == (0, 42)


def test_a_full_disk_costs_the_compilation_and_leaves_nothing_half_written(folder, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    before = set(folder.iterdir())
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert step("another") == (0, 42)
    assert set(folder.iterdir()) == before


def test_an_unreadable_file_costs_the_compilation(folder):
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    with pytest.warns(RuntimeWarning):
        assert step() == (0, 42)


def test_the_folder_is_named_by_every_source_and_version(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = cache.hash_of([tmp_path])
    assert first == cache.hash_of([tmp_path])
    stamp = (tmp_path / "a.py").stat()
    (tmp_path / "a.py").write_text("x = 2\n")
    os.utime(tmp_path / "a.py", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    second = cache.hash_of([tmp_path])
    (tmp_path / "b.py").write_text("")
    third = cache.hash_of([tmp_path])
    monkeypatch.setattr(cache.numba, "__version__", "0.0.1")
    assert len({first, second, third, cache.hash_of([tmp_path])}) == 4


def test_two_expressions_of_one_name_are_two_kernels():
    def other(w, g, learning_rate):
        return (w + learning_rate * g,)

    other.returns, other.__name__ = ("w",), "sgd"
    text = bind.loop_text(sgd, (), "none")
    assert text == bind.loop_text(other, (), "none")
    assert bind._digest(sgd, text) != bind._digest(other, text)


SCRIPT = """
import sys, warnings
import numpy as np, memopt_ref as mo
from memopt_ref.backends.numba_cpu import bind, engine, spread
w = np.ones(20000, np.float32)
mo.Optimizer(w, mo.SGD(learning_rate=0.5)).step(np.ones(20000, np.float32))
kernel = engine.kernel(mo.SGD().expression(()), (), bind.Form(), np.dtype("float32"))
print(w[0], kernel.compiled.cache_hits, spread.alone._cache.hits)
"""


def run(checkout, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MEMOPT"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        cwd=checkout,
        env={**kept, "PYTHONPATH": str(checkout), **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_new_process_finds_the_kernels_and_an_edited_expression_is_seen(tmp_path):
    checkout, disk = tmp_path / "checkout", tmp_path / "kernels"
    ignored = shutil.ignore_patterns("__pycache__", "demo", "cli", "dialects")
    shutil.copytree(PACKAGE, checkout / "memopt_ref", ignore=ignored)
    shutil.copytree(
        ROOT / "backends", checkout / "memopt_ref" / "backends", ignore=ignored, dirs_exist_ok=True
    )
    environment = {"MEMOPT_CACHE_DIR": str(disk), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(checkout, **environment) == ["0.5", "0", "0"]
    assert run(checkout, **environment) == ["0.5", "1", "1"]
    file = checkout / "memopt_ref" / "rules" / "sgd.py"
    stamp, text = file.stat(), file.read_text()
    assert text.count("return (w - learning_rate * g,)") == 1
    file.write_text(text.replace("return (w - learning_rate * g,)", "return (w + learning_rate * g,)"))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(checkout, **environment) == ["1.5", "0", "0"]


def make_folder(base, name, days):
    folder = base / name
    folder.mkdir(mode=0o700)
    (folder / "kernel").write_text("code")
    then = time.time() - days * 24 * 3600
    os.utime(folder, (then, then))
    return folder


def test_the_folders_of_other_sources_are_cleaned_but_for_the_latest_and_the_young(tmp_path):
    own = make_folder(tmp_path, "numba-own", 90)
    old = [make_folder(tmp_path, f"numba-{k}", 80 - k) for k in range(cache.KEPT + 3)]
    foreign = make_folder(tmp_path, "someone-elses", 99)
    cache.clean(tmp_path, own)
    assert sorted(tmp_path.iterdir()) == sorted([own, *old[-cache.KEPT :], foreign])
    young = [make_folder(tmp_path, f"numba-young-{k}", 0.5) for k in range(cache.KEPT + 3)]
    cache.clean(tmp_path, own)
    assert sorted(tmp_path.iterdir()) == sorted([own, *young, foreign]), "the young count among the latest"


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")
def test_only_what_is_the_users_own_is_cleaned(tmp_path):
    own = make_folder(tmp_path, "numba-own", 0)
    for k in range(cache.KEPT + 1):
        make_folder(tmp_path, f"numba-{k}", 30 + k)
    elsewhere = make_folder(tmp_path, "elsewhere", 99)
    (tmp_path / "numba-link").symlink_to(elsewhere)
    shared = make_folder(tmp_path, "numba-shared", 99)
    shared.chmod(0o777)
    cache.clean(tmp_path, own)
    assert (elsewhere / "kernel").exists()
    assert shared.exists()
    assert not (tmp_path / f"numba-{cache.KEPT}").exists(), "the oldest of the user's own"


def test_processes_that_clean_at_once_leave_each_other_the_rest(tmp_path, monkeypatch):
    own = make_folder(tmp_path, "numba-own", 0)
    old = [make_folder(tmp_path, f"numba-{k}", 80 - k) for k in range(cache.KEPT + 4)]
    rename = Path.rename

    def raced(self, target):
        if self == old[0]:
            shutil.rmtree(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", raced)
    cache.clean(tmp_path, own)
    assert sorted(tmp_path.iterdir()) == sorted([own, *old[-cache.KEPT :]])


def test_a_new_folder_is_where_cleaning_begins(tmp_path, monkeypatch):
    old = [make_folder(tmp_path, f"numba-{k}", 80 - k) for k in range(cache.KEPT + 1)]
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    assert step("cleans") == (0, 42)
    assert not old[0].exists()
    assert old[1].exists()


def test_the_warning_is_not_raised_for_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMOPT_CACHE_DIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert step("fresh") == (0, 42)
