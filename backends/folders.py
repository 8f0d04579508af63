"""Where compiled kernels and measured times are kept, from one run of Python to the next."""

from __future__ import annotations

import os
from pathlib import Path


def base_folder() -> Path:
    """``MEMOPT_CACHE_DIR``, or the user's folder for caches."""
    if chosen := os.environ.get("MEMOPT_CACHE_DIR", ""):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("memopt_ref", appauthor=False)
