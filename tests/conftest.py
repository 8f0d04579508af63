"""What a run of the tests leaves behind: nothing. Compiled kernels go to a folder of the run's own.

Nothing is measured unless the environment asks for it, so that the same kernels run every time.
"""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kernels_of_this_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMOPT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels", numbered=True)))
        if "MEMOPT_TUNE" not in os.environ:
            patch.setenv("MEMOPT_TUNE", "off")
        yield
