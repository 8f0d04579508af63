"""Compiled kernels on disk, from one run of Python to the next.

Numba's own cache knows a function by its file's date, so that it would run old code after an edit of another
file (a rule's expression), and a damaged file of it breaks the program that reads it. Here a folder's name
carries the hash of every source that a kernel is made of, and every file the hash of its contents. Compiled
code is as trusted as the library itself: the folder belongs to the user alone, or is not used. Whatever is
wrong with it costs one compilation and a warning.

Beside the code a file holds the names of what the code calls. If the process knows them all, the code is
loaded without Numba's registries, which take longer to load than Numba itself and only a compiler needs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.np.ufunc.parallel import _launch_threads

from ..folders import base_folder

MAGIC = b"memopt_ref kernel 2\n"
DIGEST = 32
#: Folders of other sources that are kept, the latest ones, and the age in seconds before which none goes:
#: a process that runs may still read and write there.
KEPT, YOUNG = 4, 24 * 3600
#: The packages whose sources a kernel is made of.
SOURCES = ("memopt_ref.rules", "memopt_ref.parts", __package__)


def hash_of(folders: Iterable[Path]) -> str:
    """Hash of all Python sources in these folders, and of the versions that compile them."""
    digest = hashlib.sha256()
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version())
    digest.update("\0".join((*versions, platform.python_implementation())).encode())
    for folder in folders:
        for file in sorted(folder.glob("*.py")):
            digest.update(f"\0{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@functools.cache
def _folder(base: Path) -> Path | None:
    sources = [Path(place) for name in SOURCES for place in import_module(name).__path__]
    try:
        folder = base / f"numba-{hash_of(sources)}"
        fresh = not folder.exists()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(folder)
        if fresh:
            clean(base, folder)
    except OSError as error:
        _warn(f"compiled kernels are not kept on disk ({error})")
        return None
    return folder


def clean(base: Path, own: Path) -> None:
    """Remove the folders of other sources and versions, but for the latest few and whatever is young.

    Whoever still uses one of them compiles again. A folder is renamed before it is emptied, so that nobody
    finds half of it; two processes that clean at once leave each other the rest.
    """
    found = []
    for folder in base.glob("numba-*"):
        try:
            _check_ours(folder)
            found.append((folder.stat().st_mtime, folder))
        except OSError:
            continue
    others = sorted((age, folder) for age, folder in found if folder != own)
    before = time.time() - YOUNG
    for age, folder in others[: max(0, len(others) - KEPT)]:
        if age < before:
            gone = folder.with_name(f"{folder.name}-{os.getpid()}-gone")
            try:
                folder.rename(gone)
            except OSError:
                continue
            shutil.rmtree(gone, ignore_errors=True)


def _check_ours(path: Path) -> None:
    """Raise PermissionError unless this user alone can put code there."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path} is a link")
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise PermissionError(f"{path} can be written by another user")


def _warn(what: str) -> None:
    warnings.warn(f"memopt_ref: {what}; this costs time, never correctness", RuntimeWarning, stacklevel=3)


class KernelCache(NullCache):
    """What Numba asks for compiled code, and gives it to.

    Parameters
    ----------
    name : str
        The kernel's; with the signature and the processor it names a file.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.hits = 0

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled code for a signature, or None."""
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            payload = _read(path)
            if payload is None:
                return None
            # Trusted like the source: the folder and the file are this user's alone, and the hash holds.
            called, threaded, content = pickle.loads(payload)  # noqa: S301
            _prepare(target_context, called, threaded)
            compiled = CompileResult._rebuild(target_context, *pickle.loads(content))  # noqa: S301
        except Exception as error:
            _warn(f"the compiled kernel {path} is damaged or foreign and is made anew ({error})")
            return None
        self.hits += 1
        return compiled

    def save_overload(self, sig: Any, compiled: Any) -> None:
        """Keep compiled code."""
        path = self._path(sig, compiled.codegen)
        if path is None or compiled.library.has_dynamic_globals:
            return
        try:
            called = tuple(
                function.name
                for function in compiled.library._final_module.functions
                if function.is_declaration and not function.name.startswith("llvm.")
            )
            content = dumps(compiled._reduce())
            _write(path, pickle.dumps((called, bool(compiled.reload_init), content)))
        except Exception as error:
            _warn(f"the compiled kernel {path} cannot be kept ({error})")

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = _folder(base_folder())
        if folder is None:
            return None
        key = hashlib.sha256(repr((self.name, str(sig), codegen.magic_tuple())).encode()).hexdigest()[:16]
        return folder / f"{self.name}-{key}"


def _prepare(target_context: Any, called: Iterable[str], threaded: bool) -> None:
    """Make known what compiled code calls: an unknown name would end the process when the code is loaded."""
    if threaded:
        _launch_threads()
    if all(llvmlite.binding.address_of_symbol(name) for name in called):
        return
    rtsys.initialize(target_context)
    if not all(llvmlite.binding.address_of_symbol(name) for name in called):
        target_context.refresh()


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise PermissionError("another user can write it")
        content = file.read()
    payload = content[len(MAGIC) + DIGEST :]
    if not content.startswith(MAGIC) or hashlib.sha256(payload).digest() != content[len(MAGIC) :][:DIGEST]:
        raise ValueError("its contents do not have its hash")
    return payload


def _write(path: Path, payload: bytes) -> None:
    """The file appears whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(MAGIC + hashlib.sha256(payload).digest() + payload)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
