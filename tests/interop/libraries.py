"""Stand-ins for array libraries: what the standard asks of them, and nothing that NumPy would understand."""

from __future__ import annotations

import types

import numpy as np


class Array:
    """An array behind ``__dlpack__``, ``__dlpack_device__``, ``__array_namespace__``, ``device``."""

    library = "strict"

    def __init__(self, array, readonly=False):
        self._array = np.array(array)
        self._array.flags.writeable = not readonly
        self.device = "cpu"

    @property
    def shape(self):
        return self._array.shape

    @property
    def dtype(self):
        return f"{self.library}.{self._array.dtype}"

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()

    def __array_namespace__(self, api_version=None):
        return types.SimpleNamespace(asarray=self._make)

    @classmethod
    def _make(cls, array, *, device=None):
        assert device == "cpu"
        return cls(array)

    def bits(self):
        return (self._array.dtype.str, self.shape, self._array.tobytes())


class Immutable(Array):
    """Like JAX: read-only views, and no DLPack for bfloat16."""

    library = "immutable"

    def __init__(self, array):
        super().__init__(array, readonly=True)

    def __dlpack__(self, **options):
        if self._array.dtype.kind == "V":
            raise BufferError("no bfloat16 here")
        return super().__dlpack__(**options)

    def __array__(self, dtype=None, copy=None):
        return self._array


class Narrow(Array):
    """A library with nothing but float32: it refuses some dtypes and silently casts others."""

    library = "narrow"

    @classmethod
    def _make(cls, array, *, device=None):
        if array.dtype.itemsize == 1 or array.dtype.kind == "V":
            raise TypeError(f"no {array.dtype}")
        return cls(np.asarray(array, np.float32))


class Source:
    """Something that can be read as an array and says no way to make one, like an open data set."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self.array


class OnDevice(Array):
    """An array on a GPU: any reading of it fails the test."""

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, **options):
        raise AssertionError("copied to the host silently")

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("copied to the host silently")


class Traced:
    """A value that is not there yet, as inside a just-in-time compiler."""

    shape, dtype = (3,), np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("traced")
