"""Shapes from trees, text, safetensors headers and model configurations; the damaged ones are refused."""

from __future__ import annotations

import json
from collections import namedtuple
from math import prod
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memopt_ref.errors import DtypeError, FileFormatError, HyperparameterError, MemoptError, ShapeError
from memopt_ref.hf_shapes import FAMILIES, shapes_from_hf_config
from memopt_ref.safetensors_shapes import shapes_from_safetensors
from memopt_ref.shapes import ShapeDtype, dtype_of, shapes_of
from memopt_ref.shapes import shapes_from_text as from_text
from memopt_ref.sizes import format_size, parse_size

GOLDEN = json.loads((Path(__file__).parent / "golden" / "hf_shapes.json").read_text())
F32 = np.dtype("float32")


def plain(shapes: dict[str, ShapeDtype]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {path: (leaf.shape, str(leaf.dtype)) for path, leaf in shapes.items()}


# Sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0),
        ("512 B", 512),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("24GiB", 24 * 2**30),
        ("1_000 MB", 10**9),
        (7, 7),
    ],
)
def test_a_size_is_read_to_the_byte(text, nbytes):
    assert parse_size(text) == nbytes


def test_a_decimal_size_is_not_rounded_through_floats():
    assert parse_size("0.3TB") == 300_000_000_000
    assert parse_size("9007199254740993") == 2**53 + 1


@pytest.mark.parametrize("text", ["24G", "lots", "", "-1GiB", "1.5.2MB", "GiB", "1e3", True, "24 GiBs"])
def test_a_doubtful_size_is_refused(text):
    with pytest.raises(HyperparameterError, match="GiB is 2\\^30"):
        parse_size(text, "--budget")


def test_sizes_are_shown_with_a_binary_unit():
    shown = [format_size(n) for n in (0, 1023, 1024, 1024**2 - 1, 10**18, 2**70)]
    assert shown == ["0 B", "1023 B", "1.00 KiB", "1024 KiB", "888.2 PiB", "1048576 PiB"]


# Trees ------------------------------------------------------------------------------------------------------


def test_a_tuple_of_ints_is_a_leaf_and_arrays_and_lookalikes_are_too():
    torch_like = SimpleNamespace(shape=(2, 3), dtype="torch.bfloat16")
    tree = {"a": [(3, np.int64(4)), np.zeros(2, np.float16)], "b": torch_like, "c": (np.zeros(1), (5,))}
    assert plain(shapes_of(tree)) == {
        "a/0": ((3, 4), "float32"),
        "a/1": ((2,), "float16"),
        "b": ((2, 3), "bfloat16"),
        "c/0": ((1,), "float64"),
        "c/1": ((5,), "float32"),
    }


def test_an_empty_tuple_is_a_scalar_among_shapes_and_an_empty_container_among_arrays():
    assert plain(shapes_of({"s": ()}, dtype="float64")) == {"s": ((), "float64")}
    assert plain(shapes_of({"w": np.zeros(2), "extra": ()})) == {"w": ((2,), "float64")}


def test_a_bare_shape_and_a_bare_array_are_trees_of_one_leaf():
    assert plain(shapes_of((3, 4))) == {"": ((3, 4), "float32")}
    assert plain(shapes_of(np.zeros((2,), ml_dtypes.bfloat16))) == {"": ((2,), "bfloat16")}


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("tree", "error", "match"),
    [
        ([3, 4], ShapeError, r"as \(4,\)"),
        ({"w": (3, -1)}, ShapeError, "w: got shape"),
        ({"w": None}, ShapeError, "w: got a NoneType"),
        ({"w": np.zeros(3, np.int32)}, DtypeError, "w: got a parameter of dtype int32"),
        ({"w": SimpleNamespace(shape=(2,), dtype="float7")}, DtypeError, "w: got 'float7'"),
        (Pair(3, 4), ShapeError, "got a int"),
        ({"w": (3, True)}, ShapeError, "w/0"),
    ],
)
def test_what_is_no_parameter_is_refused_by_its_path(tree, error, match):
    with pytest.raises(error, match=match):
        shapes_of(tree)


def test_dtypes_are_known_by_name_in_every_library():
    for given_dtype in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16), "torch.bfloat16"):
        assert dtype_of(given_dtype) == np.dtype(ml_dtypes.bfloat16)
    assert dtype_of(np.float32) == dtype_of("torch.float32") == F32


# Text -------------------------------------------------------------------------------------------------------


def test_text_names_shapes_in_order_with_dtypes():
    shapes = from_text("emb=50257x768, 3x4 ,s=():float64, b=768:bfloat16", "float16")
    assert list(plain(shapes).items()) == [
        ("emb", ((50257, 768), "float16")),
        ("1", ((3, 4), "float16")),
        ("s", ((), "float64")),
        ("b", ((768,), "bfloat16")),
    ]


@pytest.mark.parametrize(
    "text", ["", "emb", "w=3x", "w=3*4", "w=-3", "a=3,,b=4", "w=3,w=4", "=3", "w=1.5", "w=3:"]
)
def test_text_that_cannot_be_read_is_refused(text):
    with pytest.raises(ShapeError):
        from_text(text)


def test_text_with_an_integer_dtype_is_refused_by_name():
    with pytest.raises(DtypeError, match="w: got a parameter of dtype int8"):
        from_text("w=3:int8")


# safetensors ------------------------------------------------------------------------------------------------


def header_file(path: Path, header: object, tail: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + tail)
    return path


def entry(shape=(2, 3), begin=0, end=24, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


ARRAYS = {
    "w": np.zeros((3, 5), np.float32),
    "h": np.zeros((2,), np.float16),
    "b": np.zeros((4, 1, 2), ml_dtypes.bfloat16),
    "d": np.zeros((), np.float64),
    "empty": np.zeros((0, 7), np.float32),
    "ids": np.zeros(9, np.int64),
    "mask": np.zeros(3, np.bool_),
}


def test_a_file_written_by_the_safetensors_library_is_read_from_its_header_alone(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(ARRAYS, file, metadata={"format": "np"})
    trained = {name: w for name, w in ARRAYS.items() if w.dtype.kind in "fV"}
    wanted = {name: (w.shape, str(w.dtype)) for name, w in sorted(trained.items())}
    assert plain(shapes_from_safetensors(file)) == wanted
    raw = file.read_bytes()
    (tmp_path / "header.safetensors").write_bytes(raw[: 8 + int.from_bytes(raw[:8], "little")])
    assert plain(shapes_from_safetensors(tmp_path / "header.safetensors")) == wanted


def test_a_dtype_given_replaces_the_stored_one(tmp_path):
    file = header_file(tmp_path / "f8.safetensors", {"w": entry((2, 3), 0, 6, "F8_E4M3")})
    with pytest.raises(DtypeError, match="w: got dtype F8_E4M3"):
        shapes_from_safetensors(file)
    assert plain(shapes_from_safetensors(file, "bfloat16")) == {"w": ((2, 3), "bfloat16")}


def shards(folder: Path, weight_map: dict | None = None) -> Path:
    header_file(folder / "m-1.safetensors", {"a": entry()})
    header_file(folder / "m-2.safetensors", {"b": entry((4,), 0, 16), "c": entry((), 16, 20)})
    index = {"metadata": {"total_size": 44}, "weight_map": weight_map}
    if weight_map is None:
        index["weight_map"] = {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-2.safetensors"}
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    return file


def test_an_index_is_read_with_all_its_shards(tmp_path):
    shapes = shapes_from_safetensors(shards(tmp_path))
    assert {path: leaf.shape for path, leaf in shapes.items()} == {"a": (2, 3), "b": (4,), "c": ()}


@pytest.mark.parametrize(
    ("weight_map", "match"),
    [
        ({"a": "../m-1.safetensors"}, "the shard"),
        ({"a": "/etc/passwd"}, "the shard"),
        ({"a": "..\\m-1.safetensors"}, "the shard"),
        ({"a": 7}, "the shard"),
        ({"a": "m-3.safetensors"}, "No such file"),
        ({"a": "m-1.safetensors", "z": "m-1.safetensors"}, "'z' on one side only"),
        ({"b": "m-2.safetensors"}, "'c' on one side only"),
        ({}, "no 'weight_map'"),
        ([1], "no 'weight_map'"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path, weight_map, match):
    (tmp_path / "inner").mkdir()
    header_file(tmp_path / "m-1.safetensors", {"a": entry()})
    with pytest.raises(FileFormatError, match=match):
        shapes_from_safetensors(shards(tmp_path / "inner", weight_map))


BROKEN = {
    "not JSON": b"{nonsense",
    "not UTF-8": b'{"\xff": 1}',
    "a list": b"[1, 2]",
    "a key twice": b'{"w": {}, "w": {}}',
    "nested too deep": b"{" + b'"a":{' * 100_000,
    "an entry that is no object": {"w": 3},
    "a missing key": {"w": {"dtype": "F32", "shape": [2]}},
    "an unknown dtype": {"w": entry(dtype="F33")},
    "a dtype that is a list": {"w": entry() | {"dtype": ["F32"]}},
    "a negative axis": {"w": entry((-2, -3))},
    "a boolean axis": {"w": entry((True, 6))},
    "a fractional axis": {"w": entry((2.0, 3))},
    "an axis beyond 64 bits": {"w": entry((2**64,), 0, 4 * 2**64)},
    "too many axes": {"w": entry((1,) * 65, 0, 4)},
    "three offsets": {"w": entry() | {"data_offsets": [0, 24, 48]}},
    "offsets that do not fit": {"w": entry(end=20)},
    "offsets the wrong way": {"w": entry(begin=24, end=0)},
    "a gap": {"a": entry(), "b": entry(begin=28, end=52)},
    "an overlap": {"a": entry(), "b": entry(begin=20, end=44)},
    "a late start": {"a": entry(begin=8, end=32)},
}


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN)
def test_a_damaged_header_is_refused(tmp_path, header):
    with pytest.raises(FileFormatError, match=r"bad\.safetensors"):
        shapes_from_safetensors(header_file(tmp_path / "bad.safetensors", header))


@pytest.mark.parametrize(
    "raw", [b"", b"\x05\0\0", b"\0" * 8, b"\xff" * 8 + b"{}", (50).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_is_cut_short_or_lies_about_its_length_is_refused(tmp_path, raw):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(raw)
    with pytest.raises(FileFormatError, match=r"bad\.safetensors"):
        shapes_from_safetensors(file)


def test_a_missing_file_and_a_folder_are_errors_of_the_library(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileFormatError, match="readable file"):
            shapes_from_safetensors(path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
@example(0, 255, True)
def test_any_flipped_byte_is_refused_or_still_a_header(tmp_path_factory, position, byte, cut):
    folder = tmp_path_factory.getbasetemp()
    whole = header_file(folder / "whole.safetensors", {"a": entry(), "b": entry((4,), 24, 40)}).read_bytes()
    raw = bytearray(whole)
    raw[position % len(raw)] = byte
    damaged = folder / "damaged.safetensors"
    damaged.write_bytes(bytes(raw[: position % len(raw)] if cut else raw))
    try:
        shapes = shapes_from_safetensors(damaged)
    except MemoptError:
        return
    assert sum(leaf.nbytes for leaf in shapes.values()) <= 40


# config.json ------------------------------------------------------------------------------------------------


def config_file(folder: Path, config: object) -> Path:
    file = folder / "config.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return file


def label(case: dict) -> str:
    return case["config"]["architectures"][0]


@pytest.mark.parametrize("case", GOLDEN["small"], ids=label)
def test_a_configuration_gives_the_names_and_shapes_of_transformers(tmp_path, case):
    found = shapes_from_hf_config(config_file(tmp_path, case["config"]))
    assert {name: "x".join(map(str, leaf.shape)) for name, leaf in found.items()} == case["shapes"]


@pytest.mark.parametrize("case", GOLDEN["real"], ids=lambda case: case["name"])
def test_a_real_configuration_gives_the_count_of_transformers(tmp_path, case):
    found = shapes_from_hf_config(config_file(tmp_path, case["config"]))
    assert (len(found), sum(leaf.size for leaf in found.values())) == (case["tensors"], case["parameters"])


def test_every_family_is_recorded_and_a_swapped_shape_would_be_noticed():
    recorded = {case["config"]["model_type"] for case in GOLDEN["small"]}
    assert recorded == set(FAMILIES)
    case = next(case for case in GOLDEN["small"] if label(case) == "GPT2Model")
    transposed = {name: "x".join(reversed(shape.split("x"))) for name, shape in case["shapes"].items()}
    assert transposed != case["shapes"]
    assert [prod(map(int, shape.split("x"))) for shape in transposed.values()] == [
        prod(map(int, shape.split("x"))) for shape in case["shapes"].values()
    ]


def real(name: str) -> dict:
    return dict(next(case["config"] for case in GOLDEN["real"] if case["name"] == name))


def test_the_dtype_comes_from_the_argument_then_the_file_then_float32(tmp_path):
    config = real("GPT-2")
    for key, stored, given_dtype, wanted in (
        ("torch_dtype", "float16", None, "float16"),
        ("dtype", "bfloat16", None, "bfloat16"),
        ("dtype", None, None, "float32"),
        ("torch_dtype", "float16", "float64", "float64"),
    ):
        file = config_file(tmp_path, config | {key: stored})
        assert {str(leaf.dtype) for leaf in shapes_from_hf_config(file, given_dtype).values()} == {wanted}


def test_the_architecture_comes_from_the_argument_then_the_file_then_the_family(tmp_path):
    config = real("BERT-large")
    assert len(shapes_from_hf_config(config_file(tmp_path, config), architecture="BertForPreTraining")) == 398
    del config["architectures"]
    assert len(shapes_from_hf_config(config_file(tmp_path, config))) == 391


def test_an_untied_table_is_one_parameter_more(tmp_path):
    for name, key in (
        ("T5-base", "lm_head.weight"),
        ("GPT-2", "lm_head.weight"),
        ("Qwen2-0.5B", "lm_head.weight"),
    ):
        tied = shapes_from_hf_config(config_file(tmp_path, real(name)))
        untied = shapes_from_hf_config(config_file(tmp_path, real(name) | {"tie_word_embeddings": False}))
        table = max(tied.values(), key=lambda leaf: leaf.size)
        assert {k: untied[k] for k in untied.keys() - tied.keys()} == {key: table}


def without(config: dict, key: str) -> dict:
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda c: c | {"model_type": "mamba"},
            "model_type 'mamba'; wanted one of bert, gpt2, llama, mistral",
        ),
        (lambda c: without(c, "model_type"), "model_type None"),
        (lambda c: c | {"model_type": ["gpt2"]}, "model_type"),
        (
            lambda c: c | {"architectures": ["GPT2ForTokenClassification"]},
            "one of GPT2LMHeadModel, GPT2Model",
        ),
        (lambda c: without(c, "n_embd"), "no 'n_embd'"),
        (lambda c: c | {"n_embd": "768"}, "n_embd = '768'"),
        (lambda c: c | {"n_embd": -768}, "n_embd = -768"),
        (lambda c: c | {"n_embd": True}, "n_embd = True"),
        (lambda c: c | {"n_layer": 10**9}, "n_layer = 1000000000"),
        (lambda c: c | {"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no'"),
        (lambda c: c | {"add_cross_attention": True}, "add_cross_attention"),
        (lambda c: [c], "a JSON list"),
        (lambda c: "{", "bad JSON"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(tmp_path, change, match):
    with pytest.raises(FileFormatError, match=match):
        shapes_from_hf_config(config_file(tmp_path, change(real("GPT-2"))))


def test_a_configuration_with_a_dtype_that_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(DtypeError, match="int8"):
        shapes_from_hf_config(config_file(tmp_path, real("GPT-2") | {"torch_dtype": "int8"}))


@pytest.mark.oracle
def test_the_recorded_shapes_are_those_of_the_installed_transformers():
    from tests.golden import record_hf_shapes

    fresh = record_hf_shapes.record()
    for kind in ("small", "real"):
        for new, old in zip(fresh[kind], GOLDEN[kind], strict=True):
            assert without(new, "config") == without(old, "config")
