"""What several families of kernels are tested with."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.backends.cupy_gpu import folds


@pytest.fixture
def poisoned_memory(monkeypatch):
    """What a launch does not write is NaN, as on a device it may be anything."""
    room = folds.room

    def poisoned(*arguments):
        x = room(*arguments)
        x[...] = np.nan
        return x

    monkeypatch.setattr(folds, "room", poisoned)
