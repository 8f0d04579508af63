"""Putting a file in the place of another so that a crash, at any moment, leaves one of the two whole.

A temporary file in the same folder, made exclusively, is written, flushed to the disk, read back and checked;
then the old file is kept under another name, the new one takes its place in one step, and the folder is
flushed. ``NAME`` is the newest, ``NAME.1`` the one before it, and so on.

A writer holds a lock on its temporary file, which the system takes away when the writer dies, however it
does: a temporary file that can be locked belongs to nobody and is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ..errors import CheckpointError, CheckpointFormatError, CheckpointWriteError, HyperparameterError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # pragma: no cover
    _fcntl = None

Path = str | os.PathLike[str]
Write = Callable[[Any], None]

_EXTRA = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | _EXTRA
_OLD = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _EXTRA
_AS_BEFORE = "The checkpoint that was there is as it was."
_IN_PLACE = "The new checkpoint is in its place, but may not outlive a loss of power, or the old one is gone."
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_PIECE = 2**26


def generation(path: Path, age: int) -> str:
    """The name of the checkpoint that is ``age`` saves old.

    >>> generation("run.memopt", 0), generation("run.memopt", 2)
    ('run.memopt', 'run.memopt.2')
    """
    return os.fsdecode(path) + (f".{age}" if age else "")


def replace(path: Path, fill: Callable[[Write], None], check: Callable[[str], Any], keep: int) -> None:
    """Write a new file at ``path`` and keep the ``keep - 1`` ones before it.

    Parameters
    ----------
    path : path
        A symbolic link is followed: the file that it names is replaced.
    fill : function of (write)
        Calls ``write(bytes)`` as often as it likes.
    check : function of (path)
        Raises CheckpointFormatError unless the finished temporary file is good.
    keep : int
        >= 1; 1 keeps the newest alone.

    Raises
    ------
    CheckpointWriteError
        For every error of the system. Unless it says otherwise, all generations are as they were.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise HyperparameterError("keep", repr(keep), "an integer >= 1", "1 keeps the newest file alone.")
    # A message shows the name as it was given; a link is resolved once.
    where, done = os.fsdecode(path), False
    try:
        target = os.path.realpath(where)
        if os.path.isdir(target) or not os.path.basename(where):
            raise IsADirectoryError(errno.EISDIR, "Is a folder")
        with _temporary(target) as (temporary, fd, close):
            fill(lambda data: _write_all(fd, data))
            os.fsync(fd)
            try:
                check(temporary)
            except CheckpointFormatError as error:
                got, wanted = f"other bytes than were written ({error.got})", "the same on reading back"
                advice = f"The disk is failing, or an array was written meanwhile. {_AS_BEFORE}"
                raise CheckpointWriteError(where, got, wanted, advice) from error
            if _fcntl is None:
                close()  # where there are no locks, an open file cannot be renamed
            with _set_aside(target, keep) as old:
                os.replace(temporary, target)
                done = True
                _age(target, old, keep)
        _sync_folder(os.path.dirname(target))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointWriteError):
            raise
        got, wanted = str(getattr(error, "strerror", None) or error), "a file that can be written"
        raise CheckpointWriteError(where, got, wanted, _IN_PLACE if done else _AS_BEFORE) from error


@contextlib.contextmanager
def _temporary(target: str) -> Iterator[tuple[str, int, Callable[[], None]]]:
    """A new locked file beside ``target``, and what closes it; gone at the end unless it was renamed."""
    folder, name = os.path.split(target)
    _remove_stale(folder, name)
    while True:
        temporary = _temporary_name(target)
        try:
            fd = os.open(temporary, _NEW, 0o666)
        except FileExistsError:
            continue
        # Between these two lines another writer may take it for a dead one's, and remove it.
        if _lock(fd) and os.fstat(fd).st_nlink:
            break
        os.close(fd)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, fd)
        try:
            yield temporary, fd, closing.close
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _temporary_name(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{os.urandom(4).hex()}.tmp")


def _lock(fd: int) -> bool:
    if _fcntl is None:
        return True
    try:
        _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _remove_stale(folder: str, name: str) -> None:
    """Remove temporary files of ``name`` whose writer is gone; whatever goes wrong, a save goes on."""
    start, ours = f".{name}.", re.compile(r"[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError):
        near = [entry for entry in os.scandir(folder) if entry.name.startswith(start)]
        for found in [entry.path for entry in near if ours.fullmatch(entry.name, len(start))]:
            with contextlib.suppress(OSError):
                fd = os.open(found, _OLD | getattr(os, "O_NOFOLLOW", 0))
                try:
                    if _lock(fd):
                        os.unlink(found)
                finally:
                    os.close(fd)


def _write_all(fd: int, data: Any) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest[:_PIECE]) :]


@contextlib.contextmanager
def _set_aside(target: str, keep: int) -> Iterator[str | None]:
    """Give the file at ``target`` a second name, which is yielded; on an error all is as it was before."""
    second = None if keep == 1 else _second_name(target)
    if second is None:
        yield None
        return
    try:
        yield second
    except BaseException:
        if not os.path.lexists(target):
            os.replace(second, target)
        with contextlib.suppress(OSError):
            if second != generation(target, 1):
                os.unlink(second)
        raise


def _second_name(target: str) -> str | None:
    second = _temporary_name(target)
    while os.path.lexists(target):
        try:
            os.link(target, second)
            return second
        except FileNotFoundError:
            continue  # another writer replaced it just now; the next look finds the new one
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A crash before the end leaves the old file as NAME.1 and none at NAME.
            os.replace(target, generation(target, 1))
            return generation(target, 1)
    return None


def _age(target: str, old: str | None, keep: int) -> None:
    """Move every generation one further; ``old`` becomes the first."""
    if old is None or old == generation(target, 1):
        return
    for age in range(keep - 1, 1, -1):
        with contextlib.suppress(FileNotFoundError):
            os.replace(generation(target, age - 1), generation(target, age))
    # Another writer that began meanwhile may have taken it for a dead one's.
    with contextlib.suppress(FileNotFoundError):
        os.replace(old, generation(target, 1))
    # Between two names of one file, which two writers at once can set aside, a rename does nothing.
    with contextlib.suppress(OSError):
        os.unlink(old)


def _sync_folder(folder: str) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _EXTRA)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


class Source:
    """A file opened for reading; only regular ones, so that a pipe cannot make a reader wait.

    Raises
    ------
    CheckpointError
        There is none, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.where = os.fsdecode(path)
        try:
            self._fd = os.open(path, _OLD)
        except (OSError, ValueError) as error:
            raise self._refused(error) from error
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(self.where, "no regular file", "a file", "Pass the checkpoint's name.")
        except BaseException:
            os.close(self._fd)
            raise
        self.nbytes = status.st_size

    def _refused(self, error: Exception) -> CheckpointError:
        got = str(getattr(error, "strerror", None) or error)
        older = [name for age in range(1, 10) if os.path.exists(name := generation(self.where, age))]
        advice = f"{older[0]} is the generation before it." if older else "Check the path."
        return CheckpointError(self.where, got, "a file that can be read", advice)

    def read_into(self, at: int, target: Any) -> None:
        """Fill the writable buffer ``target`` with the bytes from ``at`` on.

        Raises
        ------
        CheckpointFormatError
            The file ends before, though it was longer when it was opened.
        """
        rest = memoryview(target).cast("B")
        try:
            os.lseek(self._fd, at, os.SEEK_SET)
            while rest:
                got = os.readv(self._fd, [rest[:_PIECE]]) if hasattr(os, "readv") else self._copy(rest)
                if not got:
                    wanted, advice = f"{self.nbytes} bytes, as when opened", "Something wrote to it."
                    raise CheckpointFormatError(self.where, "a shorter file", wanted, advice)
                rest = rest[got:]
        except OSError as error:
            raise self._refused(error) from error

    def _copy(self, rest: memoryview) -> int:
        found = os.read(self._fd, min(len(rest), 2**20))
        rest[: len(found)] = found
        return len(found)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)
