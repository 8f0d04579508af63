"""What every compiled function here is compiled with.

Numba lets a callee inherit ``fastmath`` and ``error_model`` from whichever caller compiles it first, and
shares the result afterwards. So each function states both, and its bits do not depend on who came first.
"""

from __future__ import annotations

from typing import Any

#: ``error_model="python"`` would put a branch and an exception at each division, and nothing would vectorise.
STRICT: dict[str, Any] = {"error_model": "numpy", "fastmath": False, "boundscheck": False}
