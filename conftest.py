"""Lets a checkout that is not installed run its tests, though two of its packages lie beside the third."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parent


class CheckoutFinder:
    """Finds the two packages of a checkout under their installed names; an installation is asked first."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The package's spec, or None for any other name."""
        if name not in ("memopt_ref.backends", "memopt_ref.theory"):
            return None
        return spec_from_file_location(name, ROOT / name.rpartition(".")[2] / "__init__.py")


# Before memopt_ref is imported, since it puts a finder of its own at the end that says what is not installed.
sys.meta_path.append(CheckoutFinder)
