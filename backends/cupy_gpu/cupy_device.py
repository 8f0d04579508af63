"""The device of CuPy's arrays. Loading this loads CuPy."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import cupy

from . import store
from .device import Extent
from .kernel import Kernel

#: Bytes of dynamic shared memory that a kernel may have without asking.
SMALL_SHARED = 48 << 10


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

    def _loaded(self, kernel: Kernel) -> Any:
        path = store.cubin(kernel, self.arch)
        function = cupy.RawModule(path=str(path)).get_function(kernel.name)
        self._functions[kernel.digest] = function
        return function


@functools.cache
def on(number: int) -> CuPyDevice:
    """The device of this number."""
    return CuPyDevice(number)
