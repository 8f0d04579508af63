"""A crash or an error at any moment of a save leaves the checkpoint that was there, or the new one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.checkpoint import files, inspect, verify
from memopt_ref.errors import CheckpointError, CheckpointWriteError, HyperparameterError
from tests.checkpoints import SCALE, refusal

ROOT = Path(__file__).parent.parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs fork, signals or limits of POSIX")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.memopt"


def saved(path: Path, step: int, **options) -> bytes:
    """Save an optimizer that says it has made so many steps, and return the bytes."""
    opt = mo.Optimizer({"w": np.full(500, step, np.float32)}, mo.SGD(momentum=0.9))
    opt.state["step"] = step
    opt.save(path, params=True, **options)
    return path.read_bytes()


def killed(folder: Path, kills: int, *options: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.checkpoint_killer", str(folder), str(kills), "7", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout)


@POSIX
def test_no_checkpoint_is_lost_in_50_kills_at_random_moments_of_a_save(tmp_path):
    kills = 50 * SCALE
    found = killed(tmp_path, kills)
    assert found["lost"] == 0
    assert found["left"] <= 2, "the next save removes what a killed one has left: its file, its second name"
    assert found["files"] == 2, "the newest, and the one before it"
    assert found["saves"] >= kills


@POSIX
def test_the_kills_hit_a_save_that_writes_over_the_old_file(tmp_path):
    assert killed(tmp_path, 6, "naive")["lost"] > 0


# Errors and crashes at every single call to the system


class Crash(BaseException):
    """The machine stops: no later call has an effect."""


class FaultyOs:
    """``os`` with a fault at its n-th call: one error, or the end of the machine. It waits for no disk."""

    COUNTED = (
        "open",
        "write",
        "fsync",
        "replace",
        "link",
        "unlink",
        "fstat",
        "readv",
        "lseek",
        "scandir",
        "close",
    )

    def __init__(self, at: int = 0, error: int | None = 0) -> None:
        self.at, self.error, self.calls = at, error, 0
        self.urandom, self.path, self.opened = os.urandom, os.path, []

    def __getattr__(self, name):
        value = getattr(os, name)
        return self.counted(value) if name in self.COUNTED else value

    def counted(self, call):
        def faulty(*arguments, **options):
            self.calls += 1
            if self.error is None and self.calls >= self.at:
                raise Crash
            if self.calls == self.at:
                raise OSError(self.error, os.strerror(self.error))
            found = None if call is os.fsync else call(*arguments, **options)
            if call is os.open:
                self.opened.append(found)
            if call is os.close:
                self.opened.remove(arguments[0])
            return found

        return faulty

    def end(self):
        """Close what a dead machine would have closed, and with it the locks."""
        for fd in self.opened:
            with contextlib.suppress(OSError):
                os.close(fd)


def faults(error, file, monkeypatch, keep=3):
    """(was it raised, message) for a fault at every call of a save that has two generations to keep."""
    at = 0
    while True:
        at += 1
        for name in sorted(file.parent.iterdir()):
            name.unlink()
        monkeypatch.setattr(files, "os", FaultyOs())
        old = [saved(file, step, keep=keep) for step in (1, 2)][::-1]
        layer = FaultyOs(at, error)
        monkeypatch.setattr(files, "os", layer)
        message = None
        try:
            saved(file, 3, keep=keep)
        except CheckpointWriteError as refused:
            message = str(refused)
        except Crash:
            message = "crash"
        finally:
            monkeypatch.setattr(files, "os", os)
            layer.end()
        if layer.calls < at:
            return
        yield message, old
        # Whatever was left behind, the next save succeeds and tidies up.
        monkeypatch.setattr(files, "os", FaultyOs())
        saved(file, 4, keep=keep)
        monkeypatch.setattr(files, "os", os)
        assert inspect(file).step == 4
        assert [p.name for p in file.parent.iterdir() if p.name.endswith(".tmp")] == []


ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EPERM, errno.EDQUOT]


@pytest.mark.parametrize("error", ERRORS, ids=[errno.errorcode[e] for e in ERRORS])
def test_after_an_error_of_the_system_at_any_call_all_generations_are_as_they_were(error, file, monkeypatch):
    raised = 0
    for message, old in faults(error, file, monkeypatch):
        step = verify(file).step
        if message is None:
            assert step == 3
        elif "is as it was" in message:
            raised += 1
            assert step == 2
            assert [file.read_bytes(), file.with_name("run.memopt.1").read_bytes()] == old
        else:
            assert "The new checkpoint is in its place" in message
            assert step == 3
    assert raised > 8, "open, write, fsync, read back, link, replace"


def test_a_machine_that_stops_at_any_call_leaves_the_old_checkpoint_or_the_new_one(file, monkeypatch):
    steps = [verify(file).step for message, _ in faults(None, file, monkeypatch) if message == "crash"]
    assert steps == sorted(steps), "once it is new it stays new"
    assert set(steps) == {2, 3}
    assert len(steps) > 15


def test_a_write_that_is_cut_short_is_continued(file, monkeypatch):
    whole = saved(file, 1)
    layer = FaultyOs()
    layer.write = lambda fd, data: os.write(fd, data[:100])
    monkeypatch.setattr(files, "os", layer)
    assert saved(file.with_name("other"), 1) == whole


def test_bytes_that_read_back_otherwise_are_not_put_in_place(file, monkeypatch):
    old = saved(file, 1)
    layer = FaultyOs()
    layer.write = lambda fd, data: os.write(fd, bytes(data[:-1]) + b"?") and len(data)
    monkeypatch.setattr(files, "os", layer)
    with pytest.raises(CheckpointWriteError, match="other bytes than were written"):
        saved(file, 2)
    assert file.read_bytes() == old
    assert sorted(p.name for p in file.parent.iterdir()) == ["run.memopt"]


FULL = """
import resource, sys, numpy as np, memopt_ref as mo
from memopt_ref.errors import CheckpointWriteError
opt = mo.Optimizer(np.ones(50_000), mo.SGD(momentum=0.9))
opt.save(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    opt.save(sys.argv[1])
except CheckpointWriteError as error:
    print(error)
"""


@POSIX
def test_a_full_disk_leaves_the_previous_file_and_nothing_else(file):
    command = [sys.executable, "-c", FULL, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "got File too large" in done.stdout
    assert "is as it was" in done.stdout
    verify(file)
    assert sorted(p.name for p in file.parent.iterdir()) == ["run.memopt"]


FORBIDDEN = """
import os, sys, numpy as np, memopt_ref as mo
from memopt_ref.errors import CheckpointWriteError
opt = mo.Optimizer(np.ones(50), mo.SGD(momentum=0.9))
opt.save(sys.argv[1])
os.chmod(os.path.dirname(sys.argv[1]), 0o555)
if os.geteuid() == 0:
    os.setuid(65534)  # permissions do not bind root
try:
    opt.save(sys.argv[1])
except CheckpointWriteError as error:
    print(error)
"""


@POSIX
def test_a_folder_that_may_not_be_written_leaves_the_previous_file():
    # In a place that another user may pass through, unlike pytest's own.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "run.memopt"
        command = [sys.executable, "-c", FORBIDDEN, str(file)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        Path(folder).chmod(0o755)
        assert "got Permission denied" in done.stdout
        assert "is as it was" in done.stdout
        verify(file)
        assert [p.name for p in Path(folder).iterdir()] == ["run.memopt"]


# Generations, names, modes


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_the_last_generations_are_kept(keep, file):
    for step in range(1, 8):
        saved(file, step, keep=keep)
    names = [files.generation(file, age) for age in range(keep)]
    assert [verify(name).step for name in names] == list(range(7, 7 - keep, -1))
    assert sorted(map(str, file.parent.iterdir())) == sorted(names)


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "2"])
def test_a_number_of_generations_that_is_none_is_refused(keep, file):
    with pytest.raises(HyperparameterError, match=r"^keep: got"):
        saved(file, 1, keep=keep)
    assert not file.exists()


def test_where_the_file_system_has_no_links_the_old_file_is_moved(file, monkeypatch):
    saved(file, 1)

    def refuse(*names):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    saved(file, 2)
    assert [verify(file).step, verify(files.generation(file, 1)).step] == [2, 1]
    saved(file, 3)
    assert [verify(file).step, verify(files.generation(file, 1)).step] == [3, 2]


@POSIX
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_the_mode_is_the_umasks(umask, file):
    before = os.umask(umask)
    try:
        saved(file, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


@POSIX
def test_a_link_is_followed(file, tmp_path):
    (tmp_path / "disk").mkdir()
    file.symlink_to(tmp_path / "disk" / "real")
    for step in (1, 2):
        saved(file, step)
    assert file.is_symlink()
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real", "real.1"]


def test_temporary_files_of_dead_writers_are_removed_and_those_of_living_ones_and_of_others_are_not(file):
    names = [
        ".run.memopt.0123abcd.tmp",
        ".run.memopt.cafe.tmp",
        ".other.0123abcd.tmp",
        "run.memopt.0123abcd.tmp",
    ]
    for name in names:
        file.with_name(name).write_bytes(b"x")
    with files._temporary(str(file)) as (living, *_):
        saved(file, 1)
        assert Path(living).exists()
    assert sorted(p.name for p in file.parent.iterdir()) == sorted([*names[1:], "run.memopt"])


def test_a_second_name_of_the_first_generation_itself_does_not_stay(file):
    """Two writers at once can set aside the same file; a rename between its names does nothing."""
    second = file.with_name(".run.memopt.12345678.tmp")
    file.write_bytes(b"newest")
    second.write_bytes(b"before")
    os.link(second, file.with_name("run.memopt.1"))
    files._age(str(file), str(second), keep=2)
    assert sorted(p.name for p in file.parent.iterdir()) == ["run.memopt", "run.memopt.1"]
    assert file.with_name("run.memopt.1").read_bytes() == b"before"


@POSIX
def test_writers_of_one_file_do_not_hinder_each_other(file):
    failed, writers = [], []

    def write(step):
        try:
            for _ in range(15):
                saved(file, step)
        except CheckpointError as error:
            failed.append(error)

    for step in range(1, 5):
        writers.append(threading.Thread(target=write, args=(step,)))
        writers[-1].start()
    while any(writer.is_alive() for writer in writers):
        if file.exists():
            verify(file)
    assert failed == []
    assert sorted(p.name for p in file.parent.iterdir()) == ["run.memopt", "run.memopt.1"]


@pytest.mark.parametrize("name", ["", "missing/run.memopt", "folder", "nul\0byte", "x" * 300])
def test_a_place_that_cannot_be_written_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointWriteError, match="wanted a file that can be written"):
        saved(os.path.join(tmp_path, name) if name else name, 1)


@pytest.mark.parametrize("name", ["missing", "folder", "nul\0byte", "pipe"])
def test_a_file_that_cannot_be_read_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    if name == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes")
        os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError):
        verify(os.path.join(tmp_path, name))


def test_a_missing_file_whose_predecessor_is_there_says_so(file):
    for step in (1, 2):
        saved(file, step)
    file.unlink()
    assert "run.memopt.1 is the generation before it" in refusal(lambda: verify(file))


def test_a_file_that_shrinks_while_it_is_read_is_refused(file):
    saved(file, 1)
    with files.Source(file) as source:
        os.truncate(file, 100)
        assert "a shorter file" in refusal(lambda: source.read_into(0, bytearray(200)))
