"""CUDA C to machine code by NVRTC itself, on machines with a GPU and without.

CuPy compiles with ``-ftz=true``, which takes subnormal results for zero: a gradient below 1.1e-19 would
square to nothing. Code that is compiled here keeps the reference's bits there too, and its log says how many
registers it needs.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from memopt_ref.errors import BackendError

from .kernel import Kernel

_FOLDERS = ("nvidia/cu*/lib", "nvidia/cu*/bin")
_LIBRARY = re.compile(r"libnvrtc\.so\.\d+|nvrtc64_\d+_\d+\.dll")
_LOADED_BY_OTHERS = ("libnvrtc.so.13", "libnvrtc.so.12")
_ADVICE = "Install CuPy with its compiler, pip install 'cupy-cuda12x[ctk]', or nvidia-cuda-nvrtc-cu12."


class Compiled(NamedTuple):
    """Machine code, and what the compiler said."""

    cubin: bytes
    log: str


def candidates() -> Iterator[str]:
    """Where NVRTC may be: wheels, then the loader's own places, then ``CUDA_PATH``."""
    for entry in sys.path:
        for folder in _FOLDERS:
            for file in sorted(Path(entry or ".").glob(f"{folder}/*nvrtc*"), reverse=True):
                if _LIBRARY.fullmatch(file.name):
                    yield str(file)
    yield from _LOADED_BY_OTHERS
    if found := ctypes.util.find_library("nvrtc"):
        yield found
    if root := os.environ.get("CUDA_PATH", ""):
        for folder in ("lib64", "lib", "bin", "bin/x64"):
            for file in sorted(Path(root, folder).glob("*nvrtc*"), reverse=True):
                if _LIBRARY.fullmatch(file.name):
                    yield str(file)


@functools.cache
def library() -> Any:
    """NVRTC, loaded.

    Raises
    ------
    BackendError
        It is nowhere.
    """
    for path in candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError:
            continue
        found.nvrtcGetErrorString.restype = ctypes.c_char_p
        return found
    raise BackendError("cupy", "no NVRTC", "NVIDIA's run-time compiler, which makes the kernels", _ADVICE)


def available() -> bool:
    """Whether NVRTC can be loaded."""
    try:
        library()
    except BackendError:
        return False
    return True


@functools.cache
def version() -> tuple[int, int]:
    """Major and minor version; registers and code depend on it."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def _check(result: int, log: str = "") -> None:
    if result != 0:
        said = library().nvrtcGetErrorString(result).decode()
        raise BackendError("cupy", said, "a kernel that compiles", log or "NVRTC gave no reason.")


def compiled(kernel: Kernel, arch: int) -> Compiled:
    """The machine code of a kernel.

    Parameters
    ----------
    kernel : Kernel
    arch : int
        The compute capability without its point: 80, 90, 100.

    Raises
    ------
    BackendError
        NVRTC is nowhere, or refuses the text; its log is the advice.
    """
    nvrtc = library()
    program = ctypes.c_void_p()
    name = f"{kernel.name}.cu".encode()
    _check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), kernel.source.encode(), name, 0, None, None),
    )
    try:
        options = [f"-arch=sm_{arch}", "--ptxas-options=-v", *kernel.options]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        result = nvrtc.nvrtcCompileProgram(program, len(options), given)
        log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        text = log.rstrip(b"\0").decode(errors="replace")
        _check(result, text)
        return Compiled(_read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), text)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(size_of: Any, read: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(read(program, buffer))
    return buffer.raw
