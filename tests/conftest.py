"""What a run of the tests leaves behind: nothing. Compiled kernels go to a folder of the run's own."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kernels_of_this_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMOPT_CACHE_DIR", str(tmp_path_factory.mktemp("kernels", numbered=True)))
        yield
