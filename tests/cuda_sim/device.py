"""A device that runs kernels on the host, and checks them: ``SimulatedDevice.launch``.

>>> import numpy as np
>>> device = SimulatedDevice("check", order="reverse")
>>> source = '''extern "C" __global__ void twice(float *x, const int n)
... {
...     const int i = blockIdx.x * blockDim.x + threadIdx.x;
...     if (i < n)
...         x[i] *= 2.f;
... }'''
>>> x = np.arange(5, dtype=np.float32)
>>> device.launch(Text("twice", source), (2,), (4,), (x, np.int32(5)))
>>> x
array([0., 2., 4., 6., 8.], dtype=float32)
>>> device.traffic["x"].bytes_read, device.traffic["x"].untouched
(20, 0)
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import build
from .arguments import Stretch, Window, stretches_of

__all__ = ["KernelError", "SimulatedDevice", "Text", "Traffic", "Window"]

#: What a launch may ask for on a real device.
MOST_BLOCK, MOST_GRID = (1024, 1024, 64), (2**31 - 1, 65535, 65535)


class KernelError(Exception):
    """What a kernel did wrong: where, by which block and thread, and in which order the threads ran."""


class Text(NamedTuple):
    """The least that a kernel is: a name, a text, options of which definitions are heard."""

    name: str
    source: str
    options: tuple[str, ...] = ()


class Traffic(NamedTuple):
    """What a launch did to an argument: counts of accesses, bytes, 32-byte sectors, and entries never met."""

    loads: int
    stores: int
    bytes_read: int
    bytes_written: int
    sectors_read: int
    sectors_written: int
    unread: int
    unwritten: int
    untouched: int

    @property
    def bytes(self) -> int:
        """What a device whose caches hold a launch's sectors moves: each of them once each way."""
        return 32 * (self.sectors_read + self.sectors_written)


class _Region(ctypes.Structure):
    _fields_ = [
        ("begin", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("item", ctypes.c_uint),
        ("writable", ctypes.c_uint),
        ("cells", ctypes.c_void_p),
        *((k, ctypes.c_uint64) for k in ("loads", "stores", "bytes_read", "bytes_written")),
        *((k, ctypes.c_uint64) for k in ("sectors_read", "sectors_written", "cells_read", "cells_written")),
        ("cells_met", ctypes.c_uint64),
    ]


class _Job(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("args", ctypes.c_void_p),
        ("regions", ctypes.c_void_p),
        ("image", ctypes.c_void_p * 5),
        *((k, ctypes.c_uint64) for k in ("first", "count", "finished", "steps")),
        ("n_regions", ctypes.c_uint),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        *((k, ctypes.c_uint) for k in ("shared", "order", "seed", "checked", "flush", "milliseconds")),
        ("message", ctypes.c_char * 768),
        ("where", ctypes.c_void_p),
        ("culprit", ctypes.c_void_p),
        ("reached", ctypes.c_void_p),
    ]


class SimulatedDevice:
    """Runs kernels on the host.

    Parameters
    ----------
    mode : {"check", "plain", "asan", "ubsan", "cover", "fma"}
        ``check`` sees every access: bounds, races, uninitialised shared memory, undefined arithmetic,
        traffic. ``plain`` is fast. ``asan`` has red zones between shared arrays. ``ubsan`` knows more
        undefined behaviour. ``cover`` knows which lines have run. ``fma`` fuses products and sums, to show
        that a comparison of bits can fail.
    order : {"forward", "reverse"} or int
        Of blocks, of threads that start, of threads that go on; a number is the seed of random orders.
    flush : bool
        Subnormal numbers count as zero, as with ``--ftz=true``.
    processors : int
        What launch code may ask of a device.
    most_shared : int
        Bytes of dynamic shared memory a block: more than 48 KiB is an option that few devices lack.
    seconds : float
        Of processor time, after which a launch counts as one without an end.

    Attributes
    ----------
    traffic : dict of str to Traffic
        By argument, of the last launch; all zeros unless the mode is ``check``.
    launches : list of str
        The names of the kernels that were launched.
    """

    def __init__(
        self,
        mode: str = "check",
        order: str | int = "forward",
        *,
        flush: bool = False,
        processors: int = 4,
        most_shared: int = 227 << 10,
        seconds: float = 60.0,
    ) -> None:
        if mode not in build.MODES:
            raise ValueError(f"mode {mode!r}: one of {', '.join(build.MODES)}")
        if flush and not build.INTEL:
            raise ValueError("subnormal numbers are flushed on x86 only")
        self.mode, self.order, self.flush, self.seconds = mode, order, flush, seconds
        self.processors, self.most_shared = processors, most_shared
        self.traffic: dict[str, Traffic] = {}
        self.launches: list[str] = []
        self._orders = {"forward": 0, "reverse": 1}
        if isinstance(order, str) and order not in self._orders:
            raise ValueError(f"order {order!r}: forward, reverse or a seed")

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared: int = 0,
        touched: Sequence[Any] = (),
        *,
        blocks: range | None = None,
    ) -> None:
        """Run a kernel.

        Parameters
        ----------
        kernel : object with ``name``, ``source`` and ``options``
            Such as :class:`Text`; the text has ``extern "C" __global__ void name(...)``.
        grid, block : tuple of one to three int
        args : sequence
            NumPy arrays, contiguous or not, or :class:`Window`, for pointers; NumPy scalars of exactly the
            kernel's types.
        shared : int
            Bytes of dynamic shared memory.
        touched : sequence of ndarray
            Arrays that the kernel finds through addresses in ``args``.
        blocks : range, optional
            Run only these of the grid's blocks.

        Raises
        ------
        TypeError, ValueError
            Arguments or sizes that a launch must not have; nothing has run.
        KernelError
            What the kernel did wrong. What it had written until then is in the arrays.
        CompileError
        """
        library = build.library(kernel.source, tuple(kernel.options), self.mode, kernel.name)
        entry = library.kernels[kernel.name]
        grid3, block3 = _extent(grid, MOST_GRID, "grid"), _extent(block, MOST_BLOCK, "block")
        threads, number = int(np.prod(block3)), int(np.prod(grid3, dtype=object))
        if threads > entry.most_threads:
            raise ValueError(f"{kernel.name}: {threads} threads a block, at most {entry.most_threads} fit")
        if not 0 <= shared <= self.most_shared:
            raise ValueError(f"{kernel.name}: {shared} bytes of shared memory, at most {self.most_shared}")
        stretches, owner, pointers = stretches_of(kernel.name, entry, args, touched)
        for stretch in stretches:
            stretch.place()
        keep: list[Any] = []
        addresses = (ctypes.c_void_p * max(1, len(args)))()
        for i, arg in enumerate(args):
            if i in pointers:
                value: Any = ctypes.c_uint64((pointers[i] + owner[i].moved) % 2**64)
                addresses[i] = ctypes.addressof(value)
            else:
                value = np.array(arg)
                addresses[i] = value.ctypes.data
            keep.append(value)
        regions = (_Region * max(1, len(stretches)))()
        for region, s in zip(regions, stretches, strict=False):
            region.begin, region.end = s.low + s.moved, s.high + s.moved
            region.name, region.item, region.writable = "/".join(s.names).encode(), s.item, s.writable
        span = range(number) if blocks is None else blocks
        job = _Job(
            kernel=entry.address,
            args=ctypes.addressof(addresses),
            regions=ctypes.addressof(regions),
            image=library.image,
            first=span.start,
            count=len(span),
            n_regions=len(stretches),
            grid=grid3,
            block=block3,
            shared=shared,
            order=self._orders.get(self.order, 2),
            seed=self.order if isinstance(self.order, int) else 0,
            checked=self.mode == "check",
            flush=self.flush,
            milliseconds=max(1, int(1000 * self.seconds)),
            reached=library.reached.ctypes.data if self.mode == "cover" else None,
        )
        failed = library.launch(ctypes.byref(job))
        self.launches.append(kernel.name)
        spoiled = [s.bring_back() for s in stretches]
        self.traffic = {"/".join(s.names): _traffic(r, s) for r, s in zip(regions, stretches, strict=False)}
        if failed:
            raise KernelError(self._explained(kernel.name, library, job))
        assert job.finished == len(span), "blocks were left out"
        for what in spoiled:
            if what:
                raise KernelError(f"{kernel.name}: {what} (order {self.order!r}; mode 'check' says by whom)")

    def uncovered(self, kernel: Any) -> list[tuple[int, str]]:
        """The lines of a kernel's text, numbered, that have code which no launch of this process has run.

        In the mode ``cover``. A line with several branches is named while one of them has not been taken.
        """
        if self.mode != "cover":
            raise ValueError(f"lines are counted in the mode 'cover', this is {self.mode!r}")
        return build.unreached(build.library(kernel.source, tuple(kernel.options), self.mode, kernel.name))

    def _explained(self, name: str, library: build.Library, job: _Job) -> str:
        message = job.message.decode(errors="replace")
        line = build.line_of(library, job.where) if job.where else None
        if job.culprit and (array := build.shared_array_at(library, job.culprit)):
            message += f" (shared array {array})"
        if line:
            message += f" at line {line}: {library.source.splitlines()[line - 1].strip()}"
        return f"{name}: {message} (order {self.order!r})"


def _extent(given: Any, most: tuple[int, ...], what: str) -> tuple[int, int, int]:
    extent = tuple(given) if isinstance(given, tuple | list) else (given,)
    fits = all(not isinstance(n, float) and 1 <= n <= m for n, m in zip(extent, most, strict=False))
    if not 1 <= len(extent) <= 3 or not fits:
        raise ValueError(f"{what} {given!r}: one to three numbers from 1 to {most}")
    if what == "block" and np.prod(extent) > 1024:
        raise ValueError(f"block {given!r}: more than 1024 threads")
    return (*map(int, extent), *(1,) * (3 - len(extent)))


def _traffic(r: Any, s: Stretch) -> Traffic:
    cells = (s.high - s.low) // s.item
    counts = (r.loads, r.stores, r.bytes_read, r.bytes_written, r.sectors_read, r.sectors_written)
    return Traffic(*counts, cells - r.cells_read, cells - r.cells_written, cells - r.cells_met)
