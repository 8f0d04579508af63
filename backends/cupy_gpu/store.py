"""Machine code on disk, from one run to the next: a file a kernel, device and compiler."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
import warnings
from pathlib import Path

from ..folders import base_folder
from . import nvrtc
from .kernel import Kernel


def cubin(kernel: Kernel, arch: int) -> Path:
    """The file with a kernel's machine code, compiled if it is not there.

    Code is as trusted as the library itself: a folder that another user can write is not used.
    """
    version = ".".join(map(str, nvrtc.version()))
    name = hashlib.sha256(f"{kernel.digest} {arch} {version}".encode()).hexdigest()[:32]
    path = _folder(base_folder()) / f"{kernel.name}-sm_{arch}-{name}.cubin"
    if not _whole(path):
        code = nvrtc.compiled(kernel, arch).cubin
        _write(path, code)
        _write(path.with_suffix(".sha256"), hashlib.sha256(code).hexdigest().encode())
    return path


def _whole(path: Path) -> bool:
    """Whether a file is there and has the hash that lies beside it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == path.with_suffix(".sha256").read_text()
    except (OSError, UnicodeDecodeError):
        return False


def _write(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@functools.cache
def _folder(base: Path) -> Path:
    folder = base / "cubin"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(folder)
        if stat.S_ISLNK(status.st_mode):
            raise PermissionError(f"{folder} is a link")
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
            raise PermissionError(f"{folder} can be written by another user")
    except OSError as error:
        what = f"compiled kernels are not kept on disk ({error}); this costs time, never correctness"
        warnings.warn(f"memopt_ref: {what}", RuntimeWarning, stacklevel=3)
        return Path(tempfile.mkdtemp(prefix="memopt_ref_"))
    return folder
