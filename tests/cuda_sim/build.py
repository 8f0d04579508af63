"""CUDA C text becomes a library of the host: what is compiled, with which flags, and where it is kept.

A library holds all kernels of one text, compiled with :file:`shim.h` before it, and is linked with the one
runtime that all share. Libraries lie in a folder of the temporary directory (``CUDA_SIM_CACHE`` names
another), under the hash of everything that they were made of.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#: A library that nobody has used for so long is removed.
KEPT_SECONDS = 7 * 24 * 3600
COMPILER = os.environ.get("CUDA_SIM_CXX", "g++")
INTEL = platform.machine() in ("x86_64", "AMD64")
_INFO = Path("/proc/cpuinfo")
#: Whether the processor fuses products and sums, and the compiler has to be told.
FUSES = INTEL and _INFO.exists() and " fma " in _INFO.read_text(encoding="utf-8")

#: A part of what -fsanitize=undefined knows: what has no meaning on a GPU either.
_UNDEFINED = "alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,float-cast-overflow"
_EXACT = "-ffp-contract=off"
MODES = {
    "check": (
        "-O1",
        _EXACT,
        f"-fsanitize=thread,{_UNDEFINED}",
        "--param=tsan-instrument-func-entry-exit=0",
    ),
    "plain": ("-O2", _EXACT),
    "asan": (
        "-O1",
        _EXACT,
        "-fsanitize=kernel-address,bounds",
        "-fsanitize-sections=sim_shared",
        "--param=asan-instrumentation-with-call-threshold=0",
        "--param=asan-stack=0",
        "--param=asan-globals=1",
    ),
    "ubsan": ("-O1", _EXACT, "-fsanitize=undefined,float-cast-overflow"),
    "cover": ("-Og", _EXACT, "-fsanitize-coverage=trace-pc"),
    "fma": ("-O2", "-ffp-contract=fast", *(("-mfma",) if FUSES else ())),
}
_ALWAYS = (
    "-std=c++17",
    "-fPIC",
    "-g1",
    "-gdwarf-4",
    "-fno-var-tracking",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-U_FORTIFY_SOURCE",
    "-fno-exceptions",
    "-w",
    *(("-fcf-protection=none",) if INTEL else ()),
)


class CompileError(Exception):
    """The text of a kernel does not compile; the message is the compiler's."""


@functools.cache
def available() -> tuple[bool, str]:
    """Whether kernels can be simulated here, and why not: it takes Linux and GCC.

    What is needed: the linker's names for the ends of a section, contexts, GCC's instrumentation.
    """
    if not sys.platform.startswith("linux"):
        return False, f"kernels are simulated on Linux, this is {sys.platform}"
    if shutil.which(COMPILER) is None:
        return False, f"kernels are simulated with GCC, and {COMPILER} is not installed"
    if "Free Software Foundation" not in _version():
        return False, f"kernels are simulated with GCC, and {COMPILER} is another compiler"
    return True, "ready"


@functools.cache
def _version() -> str:
    return _run([COMPILER, "--version"])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompileError(done.stderr or done.stdout)
    return done.stdout


@functools.cache
def folder() -> Path:
    """Where libraries are kept: one's own folder that nobody else can write."""
    given = os.environ.get("CUDA_SIM_CACHE")
    path = Path(given) if given else Path(tempfile.gettempdir()) / f"cuda_sim_{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022:
        return Path(tempfile.mkdtemp(prefix="cuda_sim_"))
    for old in path.glob("*.so"):
        # Another process may be clearing up too.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink()
    return path


def _kept(parts: tuple[str, ...], build: Callable[[Path], None]) -> Path:
    """The library with this content, built unless it is there; written beside and moved into place."""
    digest = hashlib.sha256("\0".join((_version(), platform.machine(), *parts)).encode()).hexdigest()[:32]
    path = folder() / f"{digest}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder()) as scratch:
            made = Path(scratch) / path.name
            build(made)
            os.replace(made, path)
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


@functools.cache
def runtime() -> Path:
    """The runtime, compiled."""
    source = HERE / "runtime.cpp"
    flags = [flag for flag in _ALWAYS if flag != "-w"]

    def build(path: Path) -> None:
        _run([COMPILER, "-O2", _EXACT, *flags, "-shared", "-o", str(path), str(source)])

    return _kept((source.read_text(encoding="utf-8"), *flags), build)


# A declaration of dynamic shared memory, which C++ has no word for: it becomes a pointer to the arena.
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+((?:(?:__align__|alignas)\s*\([^()]*\)\s*)?)([\w:<>\s]+?)\s*(\w+)\s*\[\s*\]"
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BOUNDS = r"(?:__launch_bounds__\s*\((?P<{}>(?:[^()]|\([^()]*\))*)\)\s*)?"
_KERNEL = re.compile(
    _BOUNDS.format("a") + r"__global__\s+" + _BOUNDS.format("b") + r"(?:void\s+)" + _BOUNDS.format("c")
    + r"(?P<name>\w+)\s*\((?P<parameters>(?:[^()]|\([^()]*\))*)\)\s*\{"
)  # fmt: skip


def translated(source: str) -> str:
    """The text as C++: line for line the same, without what has no counterpart.

    Examples
    --------
    >>> translated("extern __shared__ __align__(16) unsigned char raw[];")
    'unsigned char *const raw = reinterpret_cast<unsigned char *>(sim_arena);'
    """
    source = _DYNAMIC.sub(r"\2 *const \3 = reinterpret_cast<\2 *>(sim_arena)", source)
    return re.sub(r"#\s*include\s*<cuda_?\w*\.h>", "", source)


def signatures(source: str) -> dict[str, tuple[list[str], str | None]]:
    """The kernels of a text: the parameters as they are written, and the first number of the launch bounds.

    Examples
    --------
    >>> signatures('extern "C" __global__ void __launch_bounds__(256, 2) f(int *x, const float y) { }')
    {'f': (['int *x', 'const float y'], '256')}
    """
    found = {}
    for match in _KERNEL.finditer(_COMMENT.sub(" ", source)):
        bounds = match["a"] or match["b"] or match["c"]
        parameters = [" ".join(p.split()) for p in match["parameters"].split(",") if p.strip()]
        found[match["name"]] = parameters, bounds.split(",")[0].strip() if bounds else None
    return found


class Library:
    """One compiled text; ``kernels`` maps names to :class:`Entry`."""

    def __init__(self, path: Path, source: str, names: list[str], bounded: list[str]) -> None:
        self.path, self.source = path, source
        self.handle = ctypes.CDLL(str(path))
        self.launch = ctypes.CDLL(str(runtime())).sim_launch
        self.image = (ctypes.c_void_p * 5)()
        self.handle.sim_image(self.image)
        #: For each byte of the library whether a basic block that begins there has run.
        self.reached = np.zeros(int(self.image[3] or 0) - int(self.image[2] or 0), np.uint8)
        written = signatures(source)
        self.kernels = {
            name: Entry(self.handle, name, written[name][0] if name in written else [], name in bounded)
            for name in names
        }


class Entry:
    """A kernel: its address, its parameters' types and sizes, and its most threads a block."""

    def __init__(self, handle: ctypes.CDLL, name: str, written: list[str], bounded: bool) -> None:
        self.address = ctypes.cast(getattr(handle, f"sim_run_{name}"), ctypes.c_void_p).value
        types = getattr(handle, f"sim_types_{name}")
        types.restype = ctypes.c_char_p
        # "const char* sim_types(void (*)(sim_a ...)) [with sim_a = {float*, const float*, int}]"
        inside = types().decode().partition("sim_a = {")[2].rpartition("}")[0]
        self.types = [t.strip() for t in inside.split(", ")] if inside else []
        sizes = (ctypes.c_int * max(1, len(self.types)))()
        getattr(handle, f"sim_sizes_{name}")(sizes)
        self.sizes = [size & 255 for size in sizes][: len(self.types)]
        self.items = [size >> 8 for size in sizes][: len(self.types)]
        known = written if len(written) == len(self.types) else [""] * len(self.types)
        self.restricted = ["__restrict" in p for p in known]
        last = [re.search(r"(\w+)\s*(?:\[\s*\])?$", p) for p in known]
        self.names = [m[1] if m else f"argument {i}" for i, m in enumerate(last)]
        self.most_threads = ctypes.c_int.in_dll(handle, f"sim_bounds_{name}").value if bounded else 1024


@functools.lru_cache(maxsize=512)
def library(source: str, options: tuple[str, ...] = (), mode: str = "check", name: str = "") -> Library:
    """The text compiled in this mode; of the options those that define or undefine are heard.

    Raises
    ------
    CompileError
        With the compiler's message; its line numbers are those of the text.
    """
    written = signatures(source)
    names = sorted({*written, *([name] if name else [])})
    defines = tuple(o for o in options if o.startswith(("-D", "-U")))
    bounds = {n: b for n, (_, b) in written.items() if b}
    wrapped = "\n".join(
        [
            f'#include "{HERE / "shim.h"}"',
            '#line 1 "kernel.cu"',
            translated(source),
            '#line 1 "exports"',
            *(f"SIM_EXPORT({n})" for n in names),
            *(f'extern "C" const int sim_bounds_{n} = {b};' for n, b in bounds.items()),
            "SIM_IMAGE",
        ]
    )
    flags = [*_ALWAYS, *MODES[mode], *defines]

    def build(path: Path) -> None:
        text, unit = path.with_suffix(".cpp"), path.with_suffix(".o")
        text.write_text(wrapped, encoding="utf-8")
        _run([COMPILER, *flags, "-c", "-o", str(unit), str(text)])
        link = ["-shared", "-Wl,-rpath,$ORIGIN", f"-L{folder()}", f"-l:{runtime().name}"]
        _run([COMPILER, "-o", str(path), str(unit), *link])

    shim = (HERE / "shim.h").read_text(encoding="utf-8")
    path = _kept((wrapped, shim, runtime().name, *flags), build)
    return Library(path, source, names, list(bounds))


def line_of(library: Library, address: int) -> int | None:
    """The line of the text that the code at this address was made of, if the tools are there to tell."""
    offset = address - (library.image[2] or 0) - 1
    if not 0 <= offset < (library.image[3] or 0) - (library.image[2] or 0) or not shutil.which("addr2line"):
        return None
    out = _run(["addr2line", "-i", "-e", str(library.path), hex(offset)])
    found = re.search(r"kernel\.cu:(\d+)", out)
    return int(found[1]) if found else None


def unreached(library: Library) -> list[tuple[int, str]]:
    """Lines of the text that have code which has not run, with their numbers; for the mode ``cover``."""
    listing = _run(["objdump", "-d", "--no-show-raw-insn", str(library.path)])
    calls = re.findall(r"call[^\n]*<__sanitizer_cov_trace_pc@plt>\n\s*([0-9a-f]+):", listing)
    missed = [call for call in calls if not library.reached[int(call, 16)]]
    found = _run(["addr2line", "-e", str(library.path), *missed]) if missed else ""
    lines = sorted({int(n) for n in re.findall(r"kernel\.cu:(\d+)", found)})
    return [(n, library.source.splitlines()[n - 1].strip()) for n in lines]


def shared_array_at(library: Library, address: int) -> str | None:
    """The static shared array that an address lies in, or the one before it."""
    if not shutil.which("nm"):
        return None
    offset = address - (library.image[2] or 0)
    best: tuple[int, str] | None = None
    for row in _run(["nm", "-C", str(library.path)]).splitlines():
        at, _, symbol = row.partition(" ")
        low, high = ((library.image[k] or 0) - (library.image[2] or 0) for k in (0, 1))
        if at and low <= int(at, 16) < high and int(at, 16) <= offset and "__start" not in symbol:
            best = max(best or (-1, ""), (int(at, 16), symbol[2:].rpartition("::")[2]))
    return None if best is None else f"{best[1]!r} + {offset - best[0]} bytes"
