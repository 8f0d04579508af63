"""Compiled kernels on disk, from one run of Python to the next.

Numba's own cache knows a function by its file's date, so that it would run old code after an edit of another
file (a rule's expression), and a damaged file of it breaks the program that reads it. Here a folder's name
carries the hash of every source that a kernel is made of, and every file the hash of its contents. Compiled
code is as trusted as the library itself: the folder belongs to the user alone, or is not used. Whatever is
wrong with it costs one compilation and a warning.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import platform
import stat
import tempfile
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

MAGIC = b"memopt_ref kernel 1\n"
DIGEST = 32
#: The packages whose sources a kernel is made of.
SOURCES = ("memopt_ref.rules", "memopt_ref.parts", __package__)


def base_folder() -> Path:
    """``MEMOPT_CACHE_DIR``, or the user's folder for caches."""
    if chosen := os.environ.get("MEMOPT_CACHE_DIR", ""):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("memopt_ref", appauthor=False)


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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_ours(folder)
    except OSError as error:
        _warn(f"compiled kernels are not kept on disk ({error})")
        return None
    return folder


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
        # Not optional: compiled code may call what the context has not loaded yet.
        target_context.refresh()
        path = self._path(sig, target_context.codegen())
        if path is None:
            return None
        try:
            payload = _read(path)
            if payload is None:
                return None
            # Trusted like the source: the folder and the file are this user's alone, and the hash holds.
            compiled = CompileResult._rebuild(target_context, *pickle.loads(payload))  # noqa: S301
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
            _write(path, dumps(compiled._reduce()))
        except Exception as error:
            _warn(f"the compiled kernel {path} cannot be kept ({error})")

    def _path(self, sig: Any, codegen: Any) -> Path | None:
        folder = _folder(base_folder())
        if folder is None:
            return None
        key = hashlib.sha256(repr((self.name, str(sig), codegen.magic_tuple())).encode()).hexdigest()[:16]
        return folder / f"{self.name}-{key}"


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
