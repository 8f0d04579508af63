"""The device of CuPy's arrays. Loading this loads CuPy."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cupy

from . import nvrtc, store
from .device import Extent
from .kernel import Kernel

#: Bytes of dynamic shared memory that a kernel may have without asking.
SMALL_SHARED = 48 << 10
_DRIVER = r"Kernel Module[^\d\n]* (\d+\.\d+(?:\.\d+)?)"


class CuPyDevice:
    """Launches on one GPU, on the current stream of the calling thread.

    Kernels are compiled by NVRTC itself and not by CuPy, whose ``-ftz=true`` would change small numbers.

    Parameters
    ----------
    number : int
        The device's, as CuPy counts.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        device = cupy.cuda.Device(number)
        self.processors = int(device.attributes["MultiProcessorCount"])
        self.arch = int(device.compute_capability)
        self._functions: dict[str, Any] = {}
        self._shared: dict[str, int] = {}
        self._event: Any = None
        self._seconds = 0.0

    def launch(
        self,
        kernel: Kernel,
        grid: Extent,
        block: Extent,
        args: Sequence[Any],
        shared: int = 0,
        touched: Sequence[Any] = (),
    ) -> None:
        """See :meth:`memopt_ref.backends.cupy_gpu.device.Device.launch`."""
        with cupy.cuda.Device(self.number):
            function = self._functions.get(kernel.digest) or self._loaded(kernel)
            if shared > max(SMALL_SHARED, self._shared.get(kernel.digest, 0)):
                function.max_dynamic_shared_size_bytes = shared
                self._shared[kernel.digest] = shared
            function(tuple(grid), tuple(block), tuple(args), shared_mem=shared)

    @functools.cached_property
    def about(self) -> str:
        """Name, capability, versions of driver, CuPy and compiler; no number of the device, no host."""
        name = cupy.cuda.runtime.getDeviceProperties(self.number)["name"].decode()
        compiler = ".".join(map(str, nvrtc.version()))
        return f"{name} sm_{self.arch}, driver {driver()}, CuPy {cupy.__version__}, NVRTC {compiler}"

    def clock(self) -> float:
        """Seconds between events, once the current stream has come to this one.

        The time between two calls is added up: one event after the other, since the driver tells a
        difference in float32, which is exact to a microsecond for seconds and not for hours.
        """
        with cupy.cuda.Device(self.number):
            event = cupy.cuda.Event()
            event.record()
            event.synchronize()
            if self._event is not None:
                self._seconds += cupy.cuda.get_elapsed_time(self._event, event) / 1e3
        self._event = event
        return self._seconds

    def _loaded(self, kernel: Kernel) -> Any:
        path = store.cubin(kernel, self.arch)
        function = cupy.RawModule(path=str(path)).get_function(kernel.name)
        self._functions[kernel.digest] = function
        return function


@functools.cache
def driver() -> str:
    """The driver's version, or that of CUDA which it serves where the system does not say more.

    >>> re.search(_DRIVER, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23")[1]
    '570.86.15'
    """
    try:
        found = re.search(_DRIVER, Path("/proc/driver/nvidia/version").read_text(encoding="ascii"))
    except (OSError, ValueError):
        found = None
    return found[1] if found else f"for CUDA {cupy.cuda.runtime.driverGetVersion()}"


@functools.cache
def on(number: int) -> CuPyDevice:
    """The device of this number."""
    return CuPyDevice(number)
