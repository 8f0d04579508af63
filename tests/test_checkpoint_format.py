"""The bytes of a checkpoint: what others can read of them, and that a changed one is refused."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import struct
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.checkpoint import layout, verify
from memopt_ref.checkpoint.header import Header
from memopt_ref.errors import CheckpointError, CheckpointFormatError
from tests.checkpoints import (
    SCALE,
    adam,
    forged,
    optimizer,
    parameters,
    refusal,
    resummed,
    split,
    with_options,
    write,
)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file with many kinds of slots, and parameters: about 6 kB."""
    path = tmp_path_factory.mktemp("small") / "run.memopt"
    optimizer(3).save(path, params=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of plain slots: 48 kB."""
    path = tmp_path_factory.mktemp("large") / "run.memopt"
    adam().save(path)
    return path.read_bytes()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "run.memopt"


# What it looks like from outside


def test_safetensors_reads_every_tensor_and_the_metadata(file):
    opt = optimizer(3)
    opt.save(file, params=True)
    with safetensors.safe_open(file, "np") as found:
        names = list(found.keys())
        assert names == sorted(names)
        assert found.metadata()["format"] == "memopt_ref 1"
        assert found.metadata()["leaf/net/0/bias"] == "2 BF16 [5]"
        wanted = {"step": np.int64(3)} | {f"params/{p}": w for p, w in opt._arrays.items()}
        for path, slots in opt.state["leaves"].items():
            wanted |= {f"state/{path}/{name}": value for name, value in slots.items()}
        assert set(names) == set(wanted)
        for name, value in wanted.items():
            array = found.get_tensor(name)
            assert (array.dtype, array.shape, array.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_safetensors_own_loader_reads_the_common_dtypes(file):
    adam().save(file, params=True)
    found = safetensors.numpy.load_file(file)
    assert found["state/w/m"].shape == (300, 20)
    assert found["state/w/t"] == 1


def test_names_are_sorted_and_every_tensor_is_aligned_to_its_items(small):
    header, data = split(small)
    assert list(header) == sorted(header)
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    start, end = len(small) - len(data), 0
    assert start % 8 == 0
    for entry in sorted(header.values(), key=lambda e: e.get("data_offsets", [-1, -1])):
        if "dtype" in entry:
            begin, stop = entry["data_offsets"]
            assert begin == end
            assert (start + begin) % layout.DTYPES[entry["dtype"]].itemsize == 0
            end = stop
    assert end == len(data)


def test_arrays_that_are_not_contiguous_or_of_another_byte_order_are_stored_by_value():
    x = np.arange(12, dtype=">f4").reshape(3, 4)
    for view in (x, x.T, x[:, ::2], x[::-1]):
        wanted = view.astype("<f4").tobytes()
        assert layout.image(view).tobytes() == wanted
    bf16 = np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T
    assert layout.image(bf16).tobytes() == bf16.tobytes()
    assert layout.image(np.int64(7)).tobytes() == struct.pack("<q", 7)
    assert layout.image(np.zeros((0, 3))).tobytes() == b""


def test_paths_may_hold_anything_that_is_text_and_name_no_file(tmp_path):
    names = [
        "../../etc/passwd",
        "/abs",
        'quote"\\',
        "\x00\x1b[2J",
        "日本",
        "😀",
        " ",
        "__metadata__",
        "m",
        "a.b*",
    ]
    params = {name: np.full(3, k, np.float32) for k, name in enumerate(names)}
    mo.Optimizer(params, mo.Adam()).save(tmp_path / "f", params=True)
    fresh = {name: np.zeros(3, np.float32) for name in names}
    mo.Optimizer.load(tmp_path / "f", fresh)
    assert all(np.array_equal(fresh[name], params[name]) for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with safetensors.safe_open(tmp_path / "f", "np") as found:
        assert found.get_tensor("params/../../etc/passwd").shape == (3,)


def test_an_array_alone_empty_arrays_and_an_empty_tree_are_stored(file):
    for params in (np.ones(()), {"e": np.ones((0, 3)), "x": np.ones(2)}, {}):
        mo.Optimizer(params, mo.Adam()).save(file, params=True)
        verify(file)
        assert mo.Optimizer.load(file, params).step_count == 0


def test_a_path_without_end_and_a_dtype_that_is_no_number_are_refused(file):
    long = mo.Optimizer({"x" * 70_000: np.ones(2)}, mo.SGD())
    assert "a path of 70000 characters" in refusal(lambda: long.save(file))
    fractions = np.array([1, 2], object)
    assert "dtype object" in refusal(lambda: mo.Optimizer(fractions, mo.SGD()).save(file, params=True))
    assert not file.exists()


# Golden files: kept for ever


@pytest.mark.parametrize("recorded", sorted(GOLDEN.glob("checkpoint_v*.json")), ids=lambda p: p.stem)
def test_files_of_every_released_version_load_and_go_on_as_they_did(recorded, file):
    golden = json.loads(recorded.read_text())
    write(file, base64.b64decode(golden["file"]))
    verify(file)
    params = parameters(seed=9)
    opt = mo.Optimizer.load(file, params)
    assert opt.step_count == golden["step"]
    for step, weights in enumerate(golden["weights"]):
        for path, w in opt._arrays.items():
            assert w.tobytes().hex() == weights[path], (step, path)
        opt.step(golden_gradients(opt, step))


def golden_gradients(opt, step):
    """Multiples of 1/8, so that no generator of random numbers needs to stay as it is."""
    leaves = {
        path: (((np.arange(w.size) * (7 + step)) % 17 - 8) / 8).reshape(w.shape).astype(w.dtype)
        for path, w in opt._arrays.items()
    }
    return opt._flat.rebuild(leaves)


def test_there_is_a_golden_file_of_this_version():
    version = layout.FORMAT.rpartition(" ")[2]
    assert (GOLDEN / f"checkpoint_v{version}.json").exists()


# Accidents: everything is under a checksum


def refused(path, raw: bytes) -> str:
    """The message with which both reading and verifying refuse these bytes."""
    write(path, raw)
    return refusal(lambda: verify(path))


def flips(raw: bytes, count: int):
    rng = np.random.default_rng(1)
    for _ in range(count):
        at, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        yield at, 1 << bit


@pytest.mark.parametrize("which", ["small", "large"])
def test_every_single_bit_flip_is_refused(which, file, request):
    raw = request.getfixturevalue(which)
    write(file, raw)
    with file.open("r+b", buffering=0) as target:
        for at, bit in flips(raw, 500 * SCALE):
            for value in (raw[at] ^ bit, raw[at]):
                target.seek(at)
                target.write(bytes([value]))
                if value != raw[at]:
                    with pytest.raises(CheckpointFormatError):
                        verify(file)
    verify(file)


def test_flips_are_refused_by_loading_too(file):
    opt = adam()
    opt.save(file)
    raw = file.read_bytes()
    for at, bit in flips(raw, 100):
        write(file, raw[:at] + bytes([raw[at] ^ bit]) + raw[at + 1 :])
        with pytest.raises(CheckpointFormatError):
            mo.Optimizer.load(file, opt.params)


def test_flips_are_not_noticed_without_checksums(large):
    """The flips above do hit: safetensors takes them."""
    taken = 0
    for at, bit in flips(large, 50):
        try:
            safetensors.numpy.load(large[:at] + bytes([large[at] ^ bit]) + large[at + 1 :])
            taken += 1
        except (safetensors.SafetensorError, KeyError):
            pass
    assert taken > 40


@pytest.mark.parametrize("length", [2, 8, 64, 4096])
def test_bursts_zero_pages_and_ff_pages_are_refused(length, large, file):
    rng = np.random.default_rng(length)
    for _ in range(15 * SCALE):
        at = int(rng.integers(len(large) - length))
        for burst in (rng.bytes(length), b"\0" * length, b"\xff" * length):
            raw = large[:at] + burst + large[at + length :]
            if raw != large:
                refused(file, raw)


def test_truncation_at_every_byte_of_the_header_and_everywhere_in_the_data_is_refused(small, large, file):
    for raw, step in ((small, 16), (large, 4096)):
        write(file, raw)
        header = 8 + int.from_bytes(raw[:8], "little")
        for cut in [*range(len(raw) - 1, header, -step), *range(header, -1, -1)]:
            os.truncate(file, cut)
            refusal(lambda: verify(file))


def test_extension_is_refused(small, file):
    for more in (b"\0", b" ", b"}", small, bytes(4096)):
        refused(file, small + more)
        refused(file, more + small)


def test_swapped_tensors_are_refused(large, file):
    header, data = split(large)
    (a, b), (c, d) = (header[f"state/w/{name}"]["data_offsets"] for name in "mv")
    swapped = data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
    assert "not what their checksum says" in refused(file, large[: len(large) - len(data)] + swapped)
    header["state/w/m"]["data_offsets"], header["state/w/v"]["data_offsets"] = [c, d], [a, b]
    refused(file, forged(header, data))


def test_a_damaged_file_names_itself_and_what_to_do(large, file):
    message = refused(file, large[:-1] + bytes([large[-1] ^ 1]))
    assert message.startswith(str(file))
    assert message.endswith("The file is damaged: use the generation before it, or another copy.")


# Lies: by someone who knows the checksums


def edited(change):
    """A lie that changes header and data, and makes all checksums good again."""

    def lie(raw: bytes) -> bytes:
        header, data = split(raw)
        return resummed(header, change(header, bytearray(data)) or data)

    return lie


def entry(name: str, **members):
    return edited(lambda header, data: header[name].update(members))


def meta(**members):
    def lie(raw: bytes) -> bytes:
        header, data = split(raw)
        header["__metadata__"].update(members)
        header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if v is not None}
        return forged(header, data)

    return lie


def text(change):
    """A lie about the JSON itself."""

    def lie(raw: bytes) -> bytes:
        length = int.from_bytes(raw[:8], "little")
        return layout.sealed(change(raw[8 : 8 + length].decode().rstrip())) + raw[8 + length :]

    return lie


def options(change):
    return lambda raw: with_options(raw, change)


def adam_field(**members):
    def change(found):
        found["rules"][0]["Adam"].update(members)
        return found

    return options(change)


def rule(value):
    return options(lambda found: {**found, "rules": [value]})


def moved_gap(header, data):
    header["state/w/v"]["data_offsets"] = [n + 4 for n in header["state/w/v"]["data_offsets"]]
    return data + b"\0\0\0\0"


def removed(header, data):
    a, b = header.pop("state/w/v")["data_offsets"]
    assert b == len(data)
    return data[:a]


def added(header, data):
    header["state/w/z"] = {"data_offsets": [len(data), len(data) + 4], "dtype": "F32", "shape": [1]}
    return data + b"\0\0\0\0"


def negative_counter(header, data):
    a, b = header["state/w/t"]["data_offsets"]
    data[a:b] = struct.pack("<q", -3)
    return data


def negative_step(header, data):
    a, b = header["step"]["data_offsets"]
    data[a:b] = struct.pack("<q", -1)
    return data


def many_empty(header, data):
    for k in range(3000):
        header[f"state/w/x{k:06}"] = {"data_offsets": [len(data)] * 2, "dtype": "F32", "shape": [0]}


HUGE = [2**62, 4, 3]
M = "state/w/m"
LIES = {
    "a length beyond the file": lambda raw: struct.pack("<Q", 2**40) + raw[8:],
    "a length beyond 64 bits": lambda raw: b"\xff" * 8 + raw[8:],
    "no header": lambda raw: bytes(8) + raw[8:],
    "a length that is not a multiple of 8": lambda raw: (
        struct.pack("<Q", raw[0] + raw[1] * 256 - 1) + raw[8:]
    ),
    "an empty file": lambda raw: b"",
    "seven bytes": lambda raw: raw[:7],
    "a header over the limit": lambda raw: struct.pack("<Q", 2**24 + 8) + raw[8:] + bytes(2**24),
    "another file": lambda raw: b"PK\x03\x04" + raw,
    "deep JSON": text(lambda t: t[:60] + "[" * 30_000),
    "deep JSON in a tensor": text(lambda t: t.replace('"shape":[', '"shape":' + "[" * 30_000, 1)),
    "no JSON": text(lambda t: t[:-1]),
    "text behind the JSON": text(lambda t: t + "{}"),
    "spaces in the JSON": text(lambda t: t.replace('"dtype":', '"dtype": ')),
    "a name twice": text(lambda t: t.replace('"state/w/v"', '"state/w/m"')),
    "names out of order": text(lambda t: t.replace('"step"', '"a"')),
    "half a surrogate": text(lambda t: t.replace('"step"', '"\\ud800"')),
    "a control character": text(lambda t: t.replace('"step"', '"st\nep"')),
    "an escape that is none": text(lambda t: t.replace('"step"', '"\\x"')),
    "a name of another case": text(lambda t: t.replace('"step"', '"steq"')),
    "bytes beyond ASCII": lambda raw: raw[:70] + b"\xe9" + raw[71:],
    "an unknown dtype": entry(M, dtype="F128"),
    "a dtype of objects": entry(M, dtype="OBJECT"),
    "a dtype that is no text": entry(M, dtype=7),
    "a dtype of the same size": entry(M, dtype="I32"),
    "a dtype of half the size": entry(M, dtype="F16"),
    "a negative axis": entry(M, shape=[-300, -20]),
    "a broken axis": entry(M, shape=[300.0, 20]),
    "an axis that is no number": entry(M, shape=["300", 20]),
    "a shape that overflows": entry(M, shape=HUGE),
    "a shape that overflows to its size": entry(M, shape=[2**32, 2**32, 300, 20]),
    "a shape that hides its size behind 0": entry(M, shape=[2**62, 2**62, 0], data_offsets=[16, 16]),
    "a shape of too many axes": entry(M, shape=[300, 20] + [1] * 63),
    "a shape of an axis of 5000 digits": text(lambda t: t.replace("[300,20]", "[" + "9" * 5000 + "]", 2)),
    "a transposed shape": entry(M, shape=[20, 300]),
    "a flat shape": entry(M, shape=[6000]),
    "an entry more": entry(M, more=1),
    "overlapping tensors": entry("state/w/v", data_offsets=[16, 24016]),
    "a gap": edited(moved_gap),
    "offsets beyond the file": entry(M, data_offsets=[2**40, 2**40 + 24000]),
    "offsets backwards": entry(M, data_offsets=[24016, 16]),
    "three offsets": text(lambda t: t.replace("[16,24016]", "[16,24016,24016]")),
    "a slot less": edited(removed),
    "a slot more": edited(added),
    "a great many empty slots": edited(many_empty),
    "a counter below zero": edited(negative_counter),
    "a step below zero": edited(negative_step),
    "checksums cut short": lambda raw: forged(
        {**(h := split(raw)[0]), "__metadata__": {**h["__metadata__"], "tensors": "00"}}, split(raw)[1]
    ),
    "checksums of other tensors": meta(tensors="0" * 128),
    "checksums in capitals": lambda raw: meta(tensors=split(raw)[0]["__metadata__"]["tensors"].upper())(raw),
    "another format": meta(format="torch 1"),
    "a version to come": meta(format="memopt_ref 2"),
    "an unknown key": meta(pickle="gASVCgAAAAAAAAB9lC4="),
    "a missing key": meta(library=None),
    "a key that is no text": meta(library=3),
    "a leaf more": meta(**{"leaf/z": "0 F32 [3]"}),
    "a leaf less": meta(**{"leaf/w": None}),
    "a leaf of another shape": meta(**{"leaf/w": "0 F32 [20,300]"}),
    "a leaf of another dtype": meta(**{"leaf/w": "0 F64 [300,20]"}),
    "a leaf of integers": meta(**{"leaf/w": "0 I32 [300,20]"}),
    "a leaf of a huge shape": meta(**{"leaf/w": f"0 F32 {str(HUGE).replace(' ', '')}"}),
    "a leaf of an unknown rule": meta(**{"leaf/w": "7 F32 [300,20]"}),
    "a leaf of words": meta(**{"leaf/w": "Adam"}),
    "rules that are no JSON": options("{"),
    "rules that are deep": options('{"rules":' + "[" * 30_000),
    "rules that are too many": options('{"rules":[' + "0," * 70_000 + "0]}"),
    "rules that are too long": options('{"rules":"' + "x" * 2**20 + '"}'),
    "no rules": options(lambda found: {**found, "rules": []}),
    "rules that are a number": options(lambda found: {**found, "rules": 7}),
    "options that are a list": options("[]"),
    "an option more": options(lambda found: {**found, "more": 1}),
    "an option twice": options('{"max_norm":null,"max_norm":null,"nonfinite":"raise","rules":[]}'),
    "an unknown policy": options(lambda found: {**found, "nonfinite": "explode"}),
    "a policy that is a list": options(lambda found: {**found, "nonfinite": []}),
    "a norm below zero": options(lambda found: {**found, "max_norm": -1.0}),
    "a norm of NaN": options('{"max_norm":NaN,"nonfinite":"raise","rules":[{"SGD":null}]}'),
    "a norm beyond numbers": options('{"max_norm":1e999,"nonfinite":"raise","rules":[{"SGD":null}]}'),
    "a class of the system": rule({"os.system": {"command": "true"}}),
    "a class by its path": rule({"subprocess.Popen": {"args": ["true"]}}),
    "a class that calls a function": rule({"Function": {"function": "abs"}}),
    "a class that is no rule": rule({"WarmUp": {"value": 0.1, "steps": 5, "power": 2}}),
    "a class of two names": rule({"Adam": {}, "SGD": {}}),
    "a class of no name": rule({}),
    "a rule that is a number": rule(3),
    "a rule that is a list": rule([{"SGD": {}}]),
    "a rule with too few fields": rule({"SGD": {"learning_rate": 0.1}}),
    "a rule with a field more": adam_field(more=1),
    "a field out of range": adam_field(beta1=-1.0),
    "a field of another type": adam_field(beta1="0.9"),
    "a field that is a list": adam_field(beta1=[0.9, [0.9]]),
    "a field of many digits": options(
        '{"max_norm":null,"nonfinite":"raise","rules":[{"Adam":{"beta1":' + "9" * 6000 + "}}]}"
    ),
    "a field that is a cover": adam_field(beta1={"AxisCover": {}}),
    "a sketch of 8 GiB": lambda raw: rule(stored_rule(mo.CountSketchAdam(width=2**31 - 1)))(raw),
    "a cover of another shape": lambda raw: rule(stored_rule(mo.SM3(cover=mo.IndexCover(((0, 1), (2,))))))(
        raw
    ),
}


def stored_rule(value):
    from memopt_ref.checkpoint.values import encode

    return encode(value, "", [])


#: What Python itself needs to say no: frames, messages, the file's name.
SLACK = 2**15


def peak(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_refused_without_allocating_more_than_the_file_twice(lie, large, file):
    raw = lie(large)
    assert raw != large
    write(file, raw)
    params = {"w": np.zeros((300, 20), np.float32)}
    for action in (lambda: verify(file), lambda: mo.Optimizer.load(file, params)):
        refusal(action)
        assert peak(lambda action=action: refusal(action)) <= 2 * len(raw) + SLACK


def test_the_truth_is_not_refused_and_needs_no_more_than_the_file_twice(large, file):
    header, data = split(large)
    params = {"w": np.zeros((300, 20), np.float32)}
    for raw in (large, resummed(header, data), text(str)(large), options(lambda found: found)(large)):
        write(file, raw)
        for action in (lambda: verify(file), lambda: mo.Optimizer.load(file, params)):
            assert peak(action) <= 2 * len(raw) + SLACK


def test_a_version_to_come_says_that_this_release_is_too_old(large, file):
    assert refused(file, meta(format="memopt_ref 2")(large)).endswith("the file is newer than this release.")
    assert refused(file, meta(format="torch 1")(large)).startswith(str(file))


# Fuzzing: nothing but a CheckpointError, or a file that is whole


def outcome(path, raw: bytes) -> None:
    write(path, raw)
    for action in (lambda: verify(path), lambda: mo.Optimizer.load(path, parameters())):
        with contextlib.suppress(CheckpointError):
            action()


FUZZ = settings(max_examples=120 * SCALE, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "f"


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_behind_a_good_start_are_refused_politely(place, raw):
    length = len(raw) // 8 * 8
    outcome(place, raw)
    outcome(place, struct.pack("<Q", length) + raw)
    body = layout.START.encode() + b"0" * layout.DIGITS + raw
    outcome(place, layout.sealed(body.decode("latin-1").encode("ascii", "replace").decode()))


@FUZZ
@given(st.data())
def test_mutated_headers_with_good_checksums_are_refused_politely(place, small, data):
    length = int.from_bytes(small[:8], "little")
    header = small[8 : 8 + length].decode()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(len(layout.START) + layout.DIGITS, len(header)))
        end = min(len(header), at + data.draw(st.integers(0, 20)))
        new = data.draw(st.text(st.characters(max_codepoint=126), max_size=12) | st.sampled_from(TOKENS))
        header = header[:at] + new + header[end:]
    outcome(place, layout.sealed(header.rstrip()) + small[8 + length :])


TOKENS = [
    "[",
    "]",
    "{",
    "}",
    '"',
    ",",
    "0",
    "-1",
    "9" * 19,
    "9" * 30,
    "null",
    "1e999",
    "NaN",
    "\\\\",
    "[[[[",
    "F64",
]


@FUZZ
@given(st.data())
def test_mutated_rules_are_refused_politely(place, small, data):
    found = json.loads(split(small)[0]["__metadata__"]["optimizer"])
    values = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=4)
        | st.just([])
        | st.just({})
    )
    for _ in range(data.draw(st.integers(1, 3))):
        node = found
        while isinstance(node, dict | list) and node:
            key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], dict | list) or data.draw(st.booleans()):
                node[key] = data.draw(values)
                break
            node = node[key]
    outcome(place, with_options(small, json.dumps(found)))


def test_the_fuzzers_notice_a_reader_that_falls_over(place, small, monkeypatch):
    monkeypatch.setattr(
        Header, "leaves", lambda self: iter([1 / len(self.values) * 0 * [0][len(self.values)]])
    )
    with pytest.raises(IndexError):
        outcome(place, small)
