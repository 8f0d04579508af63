"""A program that knows nothing of the library makes its saves go wrong, one call to the system at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("needs LD_PRELOAD and a C compiler")
    built = tmp_path_factory.mktemp("faults") / "faults.so"
    source = ROOT / "tests" / "faults" / "faults.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return built


def preloaded(library: Path, folder: Path, *options: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.faults.saves", str(folder), *options]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(done.stdout)


def test_a_fault_from_outside_at_any_call_loses_no_checkpoint_and_the_message_tells_the_truth(
    library, tmp_path
):
    found = preloaded(library, tmp_path)
    assert found["cases"] > 100
    assert found["refusals"] > 40
    assert found["kills"] > 50
    assert found["lost"] == found["wrong words"] == 0


def test_the_faults_from_outside_lose_checkpoints_that_are_written_over(library, tmp_path):
    found = preloaded(library, tmp_path, "naive")
    assert found["lost"] > 5
    assert found["wrong words"] > 5
