"""What the README shows of a GPU runs as shown, on a stand-in; and it quotes no figure without a file."""

from __future__ import annotations

import re
from pathlib import Path

from memopt_ref.backends.cupy_gpu.device import instead
from memopt_ref.bench import gpu_rows
from tests.cuda_sim.device import SimulatedDevice
from tests.cupy_gpu.machines import simulated
from tests.cupy_gpu.stand_in import install

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SECTION = README.partition("## On a GPU\n")[2].partition("\n## ")[0]
#: A number with a unit of time, bandwidth or a multiple of them.
FIGURE = r"\d[\d.,]*\s*(s|ms|µs|us|GB/s|TB/s|GiB/s|times|%)\b"


@simulated
def test_the_code_runs_and_says_what_it_says(monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.S)
    install(monkeypatch)
    with instead(SimulatedDevice()):
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "cupy.sm3" in printed
    assert "cupy.elementwise" in printed


def quotes_a_figure(text):
    return re.search(FIGURE, text) is not None


def test_no_figure_of_a_gpu_is_quoted_until_there_is_a_file_of_them():
    assert quotes_a_figure("Adam takes 4.1 ms")
    assert quotes_a_figure("at 0.9 TB/s")
    measured = (ROOT / "asv_bench/gpu.json").exists()
    assert ("No figure has been measured on a GPU, so none is quoted" in SECTION) == (not measured)
    assert measured or not quotes_a_figure(SECTION)


def test_what_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    assert "\ngpu-check:" in makefile
    assert "GPU_FILE ?= asv_bench/gpu.json" in makefile
    assert "m memopt_ref.bench.gpu" in makefile
    assert "pytest -m gpu" in makefile
    assert gpu_rows.__file__.endswith("memopt_ref/bench/gpu_rows.py")
