"""Every kernel compiles for three devices, spills nothing, and costs what the table says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from memopt_ref.backends.cupy_gpu import cubin, nvrtc
from memopt_ref.backends.cupy_gpu.kernel import Kernel, defined
from memopt_ref.errors import BackendError
from tests.cupy_gpu import gate

needs_nvrtc = pytest.mark.skipif(
    not nvrtc.available(), reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)"
)


@pytest.fixture(scope="module")
def kernels():
    return gate.kernels()


def test_the_table_is_of_these_very_kernels(kernels):
    for of_version in gate.read()["texts"].values():
        assert gate.changed(kernels, of_version) == [], "python -m tests.cupy_gpu.gate --write"


def test_a_kernel_that_has_changed_or_gone_is_noticed(kernels):
    (texts,) = gate.read()["texts"].values()
    name = "adam_packed float32"
    other = Kernel("adam_packed", kernels[name].source + " ", kernels[name].options)
    assert gate.changed({**kernels, name: other}, texts) == [name]
    assert gate.changed({**kernels, "one more": other}, texts) == ["one more"]
    assert gate.changed({k: v for k, v in kernels.items() if k != name}, texts) == [name]


#: Compiled in every run of the tests, and with them every tenth of the others.
ALWAYS = ("adam_packed float32", "adam_strided float32 listed", "adam_table bfloat16", "sm3 float32")


@needs_nvrtc
def test_kernels_compile_for_three_devices_at_the_cost_of_the_table(kernels):
    chosen = {k: v for k, v in kernels.items() if k in ALWAYS or int(v.digest[:8], 16) % 10 == 0}
    assert len(chosen) > len(ALWAYS)
    assert gate.faults(gate.measured(chosen), gate.table(), chosen) == []


def hungry(kernel: Kernel) -> Kernel:
    """The same kernel with an array that no registers hold."""
    begin = kernel.source.index("const long long packs")
    array = """
    Real heap[999];
    for (int k = 0; k < 999; ++k)
        heap[k] = w_all[k] * (Real)count;
    w_all[count] = heap[count % 999];
    """
    return Kernel(kernel.name, kernel.source[:begin] + array + kernel.source[begin:], kernel.options)


def cramped(kernel: Kernel) -> Kernel:
    """The same kernel in as many blocks a processor as leave it too few registers."""
    crowded = kernel.source.replace("__launch_bounds__(BLOCK, 1)", "__launch_bounds__(BLOCK, 8)")
    return Kernel(kernel.name, crowded, kernel.options)


def verbose(kernel: Kernel) -> Kernel:
    """The same numbers by other instructions."""
    return Kernel(kernel.name, kernel.source.replace("e14 =", "e14 = absolute(e13) *"), kernel.options)


@needs_nvrtc
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(hungry, "spills"), (cramped, "spills"), (verbose, "the table says")],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_kernel_that_costs_more_is_noticed(spoil, said, kernels):
    name = "adam_packed float32"
    chosen = {name: spoil(kernels[name])}
    expected = gate.table() or gate.measured({name: kernels[name]})
    assert any(said in fault for fault in gate.faults(gate.measured(chosen, (90,)), expected, chosen))


@needs_nvrtc
def test_a_warning_stops_the_gate(kernels):
    kernel = kernels["sgd_packed float32"]
    begin = kernel.source.index("const long long packs")
    source = kernel.source[:begin] + "int idle;\n    " + kernel.source[begin:]
    with pytest.raises(AssertionError, match=r'warning.*"idle"'):
        gate.measured({"sgd": Kernel(kernel.name, source, kernel.options)}, (90,))


def ptx(kernel: Kernel) -> str:
    """The intermediate text, in which each operation says how it rounds."""
    import ctypes

    library, program = nvrtc.library(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), kernel.source.encode(), b"k.cu", 0, None, None)
    options = ["-arch=compute_90", *kernel.options]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    assert library.nvrtcCompileProgram(program, len(options), given) == 0
    text = nvrtc._read(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program).decode()
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return text


def loose(text: str) -> list[str]:
    """Instructions that do not round each operation to nearest by itself, or that compute in another type."""
    wrong = re.findall(r"\b(?:fma|mad)\.\S*f(?:32|64)|\S*approx\S*|\S*\.ftz\S*|\.local\b", text)
    wrong += re.findall(r"\b(?:add|sub|mul|div|sqrt)(?!\.rn)\.f(?:32|64)", text)
    return wrong


@needs_nvrtc
def test_each_operation_is_rounded_by_itself_and_to_nearest(kernels):
    for name in (
        "adam_packed float32",
        "adam_strided float16",
        "centred_momentum_packed bfloat16",
        "sm3 float32",
        "adafactor_update float32 own",
        "factor_ratios float32",
    ):
        text = ptx(kernels[name])
        assert loose(text) == []
        assert not re.search(r"\.f64\b", text), f"{name} has a double"
        assert len(re.findall(r"\bdiv\.rn\.f32", text)) > 0
    assert "sqrt.rn.f32" in ptx(kernels["adam_packed float32"])
    fused = kernels["adam_packed float32"]
    options = tuple(o for o in fused.options if o != "--fmad=false")
    assert loose(ptx(Kernel(fused.name, fused.source, options)))
    assert loose(ptx(Kernel(fused.name, fused.source, (*fused.options, "--ftz=true"))))


@needs_nvrtc
def test_packs_are_read_and_written_by_one_instruction(kernels):
    for name, wide in {
        "adam_packed float32": "v4.",
        "adam_packed float64": "v2.",
        "adam_packed bfloat16": "v4.",
        "sm3 float32": "v4.",
    }.items():
        text = ptx(kernels[name])
        assert re.search(rf"ld\.global\.(nc\.)?{re.escape(wide)}", text), name
        assert re.search(rf"st\.global\.{re.escape(wide)}", text), name


@needs_nvrtc
def test_a_text_that_does_not_compile_is_refused_with_the_compiler_s_words():
    kernel = Kernel("f", 'extern "C" __global__ void f(int *x) { x[0] = nonsense; }', defined())
    with pytest.raises(BackendError, match='"nonsense" is undefined'):
        nvrtc.compiled(kernel, 90)


@needs_nvrtc
def test_the_size_of_the_code_is_that_of_its_section():
    source = 'extern "C" __global__ void f(int *x) { x[0] = 1; }'
    short = nvrtc.compiled(Kernel("f", source, defined()), 90)
    long = nvrtc.compiled(
        Kernel("f", source.replace("x[0] = 1;", "x[0] = 1; " * 1 + "x[1] = x[2] / x[3];"), defined()), 90
    )
    costs = [cubin.cost(compiled, "f") for compiled in (short, long)]
    assert 0 < costs[0].code < costs[1].code
    assert costs[0].code % 16 == 0
    assert cubin.sections(short.cubin)[".text.f"] == costs[0].code


def test_without_nvrtc_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(nvrtc, "candidates", lambda: iter(["/no/such/libnvrtc.so.12"]))
    nvrtc.library.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"pip install 'cupy-cuda12x\[ctk\]'"):
            nvrtc.library()
        assert not nvrtc.available()
    finally:
        nvrtc.library.cache_clear()


def test_another_compiler_s_library_of_that_name_is_not_taken(tmp_path, monkeypatch):
    folder = tmp_path / "nvidia" / "cuda_nvrtc" / "lib"
    folder.mkdir(parents=True)
    for name in ("libnvrtc.so.12", "libnvrtc.alt.so.12", "libnvrtc-builtins.so.12.9"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(nvrtc.sys, "path", [str(tmp_path)])
    found = [path for path in nvrtc.candidates() if path.startswith(str(tmp_path))]
    assert found == [str(folder / "libnvrtc.so.12")]


def test_the_table_says_of_which_compiler_it_is():
    written = gate.read()
    assert written["columns"] == list(cubin.Cost._fields)
    assert set(written["costs"]["12.9"]) == set(gate.kernels())
    assert all(set(costs) == {"80", "90", "100"} for costs in written["costs"]["12.9"].values())
    assert np.all(
        [row[1:4] == [0, 0, 0] for costs in written["costs"]["12.9"].values() for row in costs.values()]
    )
