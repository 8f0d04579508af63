"""Plays that several tests look at are played once."""

from __future__ import annotations

import pytest

from memopt_ref.theory import suites


@pytest.fixture(scope="session")
def core():
    """The records of the core suite."""
    return list(suites.run(suites.core()))
