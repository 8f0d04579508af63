"""Where kernels run: one object with a ``launch``, of which there are three kinds.

:class:`~memopt_ref.backends.cupy_gpu.cupy_device.CuPyDevice` launches on a GPU; the tests have one that runs
the same text on the host, and :class:`RecordingDevice` runs nothing and remembers. So the code that chooses
grids and arguments is the same in all three, and imports no CuPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

from memopt_ref.errors import BackendError

from ..resolver import describe, library_of
from .kernel import Kernel

Extent = tuple[int, ...]

_instead: ContextVar[Device | None] = ContextVar("memopt_device", default=None)


class Device(Protocol):
    """What kernels are launched on.

    ``processors`` says on how many blocks can be worked at once, a few on each.
    """

    processors: int

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        args: Sequence[Any],
        shared: int = 0,
        touched: Sequence[Any] = (),
    ) -> None:
        """Run a kernel after all that was launched before it.

        Parameters
        ----------
        kernel : Kernel
        grid, block : tuple of one to three int
            Blocks, and threads a block; all at least 1.
        args : sequence
            Arrays of the device, passed as the address of their first entry, and NumPy scalars of exactly
            the kernel's types.
        shared : int
            Bytes of dynamic shared memory a block.
        touched : sequence
            Arrays that the kernel finds through addresses in ``args``.
        """


@runtime_checkable
class Timed(Protocol):
    """A device on which kernels can be timed: a GPU, and no other that ships."""

    @property
    def about(self) -> str:
        """Name, capability, driver and compiler: what a measured time holds for."""

    def clock(self) -> float:
        """Seconds, once everything is done that was launched on the current stream before."""


class Launch(NamedTuple):
    """What a :class:`RecordingDevice` remembers."""

    kernel: Kernel
    grid: Extent
    block: Extent
    args: tuple[Any, ...]
    shared: int


class RecordingDevice:
    """Runs nothing; ``launches`` holds what would have run.

    Examples
    --------
    >>> device = RecordingDevice(processors=132)
    >>> device.launch(Kernel("f", ""), (3,), (256,), ())
    >>> device.launches[0].grid
    (3,)
    """

    def __init__(self, processors: int = 132) -> None:
        self.processors = processors
        self.launches: list[Launch] = []

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        args: Sequence[Any],
        shared: int = 0,
        touched: Sequence[Any] = (),
    ) -> None:
        """Remember it."""
        self.launches.append(Launch(kernel, grid, block, tuple(args), shared))


@contextmanager
def instead(device: Device) -> Iterator[Device]:
    """Launch on this device whatever the arrays' own is, in this thread or task."""
    token = _instead.set(device)
    try:
        yield device
    finally:
        _instead.reset(token)


def device_of(array: Any) -> Device:
    """The device that an array lies on, or the one of :func:`instead`.

    Raises
    ------
    BackendError
        The array is not CuPy's.
    """
    chosen = _instead.get()
    if chosen is not None:
        return chosen
    if library_of(array) != "cupy":
        advice = "Copy the arrays to the device first, cupy.asarray(x): it is never done silently."
        raise BackendError("cupy", describe(array), "a CuPy array", advice)
    from .cupy_device import on

    return on(int(array.device.id))
