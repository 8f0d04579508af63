"""Planned bytes are the bytes that ``init`` allocates, and the published figures come out of them."""

from __future__ import annotations

import dataclasses
import json
import time
import tracemalloc
from math import ceil, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

import memopt_ref as mo
from memopt_ref.errors import DtypeError, HyperparameterError, PatternError, ShapeError
from memopt_ref.hf_shapes import shapes_from_hf_config
from memopt_ref.parts.slots import Slot
from memopt_ref.planned import label
from memopt_ref.planner import plan, state_nbytes
from memopt_ref.rules.base import Rule
from memopt_ref.rules.sgd import SGD
from memopt_ref.shapes import ShapeDtype, shapes_of
from tests.table import all_cases, dtype_of

CASES = all_cases()
REAL = json.loads((Path(__file__).parent / "golden" / "hf_shapes.json").read_text())["real"]
F32 = np.dtype("float32")
GIB = 2**30


def measured(rule: Rule, params) -> tuple[int, int]:
    """(accumulators, counters) of the state that is really there."""
    leaves = [value for leaf in rule.init(params)["leaves"].values() for value in leaf.values()]
    counters = sum(v.nbytes for v in leaves if not isinstance(v, np.ndarray))
    return sum(v.nbytes for v in leaves) - counters, counters


def assert_planned_is_measured(rule: Rule, params) -> None:
    (found,) = plan(params, rule).rules
    assert (found.accumulator_nbytes, found.counter_nbytes) == measured(rule, params)
    assert state_nbytes(rule, params) == sum(measured(rule, params))


# Planned equals measured ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_planned_bytes_are_the_bytes_of_the_state(case):
    for dtype in case.dtypes:
        tree = {str(i): np.zeros(shape, dtype_of(dtype)) for i, shape in enumerate(case.shapes)}
        assert_planned_is_measured(case.rule, tree)


RANDOM_RULES = ["SGD(momentum=0.9)", "Adam", "SM3", "SM3(momentum=0.9)", "Adafactor", "Shampoo", "MicroAdam"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9), max_size=4))
def test_planned_is_measured_for_any_shapes(shapes):
    from memopt_ref.cli.rule_text import parse_rules

    params = {f"p{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    for rule in parse_rules(", ".join(RANDOM_RULES)).values():
        assert_planned_is_measured(rule, params)


def test_a_rule_that_declares_other_slots_than_it_keeps_is_caught():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Hoarder(SGD):
        def init_leaf(self, w, path=""):
            return {**super().init_leaf(w, path), "extra": np.zeros(1, np.float32)}

    with pytest.raises(AssertionError):
        assert_planned_is_measured(Hoarder(momentum=0.9), np.zeros((3, 4), np.float32))


def test_a_counter_that_is_counted_as_an_accumulator_is_caught():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wide(SGD):
        def slots(self, shape, dtype):
            return {**super().slots(shape, dtype), "t": Slot((1,), np.dtype(np.int64))}

    class Host(Wide):
        def init_leaf(self, w, path=""):
            return {**super().init_leaf(w, path), "t": np.int64(0)}

    assert plan(np.zeros(3, np.float32), Host()).rules[0].accumulator_nbytes == 8
    with pytest.raises(AssertionError):
        assert_planned_is_measured(Host(), np.zeros(3, np.float32))


def test_the_optimizer_holds_what_was_planned():
    params = {
        "emb": np.zeros((50, 8), np.float32),
        "b": np.zeros(8, np.float32),
        "h": np.zeros((4, 4), np.float16),
    }
    groups = [("emb", mo.CountSketchAdam(compression=5)), ("b", mo.Adam())]
    for rule in (mo.SM3(momentum=0.9), mo.MicroAdam(), mo.Adafactor()):
        held = mo.Optimizer({k: w.copy() for k, w in params.items()}, rule, groups=groups).state_nbytes
        assert mo.plan(params, rule, groups=groups).rules[0].state_nbytes == held


# Published and recorded figures -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, dict[str, ShapeDtype]]:
    """Shapes of real models by name."""
    file = tmp_path_factory.mktemp("configs") / "config.json"
    found = {}
    for case in REAL:
        file.write_text(json.dumps(case["config"]))
        found[case["name"]] = shapes_from_hf_config(file)
    return found


def accumulators(rule: Rule, shapes) -> int:
    return plan(shapes, rule).rules[0].accumulator_nbytes


def floats(rule: Rule, shapes) -> int:
    nbytes = accumulators(rule, shapes)
    assert nbytes % 4 == 0
    return nbytes // 4


def test_the_models_have_their_published_numbers_of_parameters(models):
    counts = {name: sum(leaf.size for leaf in shapes.values()) for name, shapes in models.items()}
    assert counts["GPT-2"] == 124_439_808
    assert counts["BERT-large"] == 335_141_888
    assert counts["BERT-large with MLM and NSP heads"] == 336_226_108
    assert counts["LLaMA-7B"] == 6_738_415_616


@pytest.mark.parametrize(
    ("make", "gpt2", "bert", "llama"),
    [
        (lambda: mo.Adam(), 995_518_464, 2_681_135_104, 53_907_324_928),
        (lambda: mo.Adafactor(), 1_286_468, 3_204_336, 11_347_968),
        (lambda: mo.Adafactor(factor_axes="largest", min_dim=128), 1_286_468, 3_208_424, 11_347_968),
        (lambda: mo.SM3(), 1_286_468, 3_204_336, 11_347_968),
        (lambda: mo.SM3(momentum=0.9), 499_045_700, 1_343_771_888, 26_965_010_432),
    ],
    ids=["Adam", "Adafactor", "Adafactor of optax", "SM3", "SM3 with momentum"],
)
def test_accumulator_bytes_of_real_models(models, make, gpt2, bert, llama):
    rule = make()
    assert accumulators(rule, models["GPT-2"]) == gpt2
    assert accumulators(rule, models["BERT-large"]) == bert
    assert accumulators(rule, models["LLaMA-7B"]) == llama


def test_shampoo_with_roots_on_the_matrices_of_bert_large_and_adagrad_on_its_vectors(models):
    groups = [(lambda path, leaf: len(leaf.shape) == 1, mo.AdaGrad())]
    (found,) = plan(models["BERT-large"], mo.Shampoo(interval=2), groups=groups).rules
    assert found.accumulator_nbytes == 15_953_787_200


def micro_adam_by_hand(shapes, rows: int = 10, block: int = 4096, bucket: int = 64) -> int:
    """Window of ``rows`` (int16, bfloat16) pairs, nibbles, and (min, max) in bfloat16 a bucket."""
    total = 0
    for leaf in shapes.values():
        d = leaf.size
        kept = (d // block) * ceil(block / 100) + ceil((d % block) / 100)
        total += rows * kept * (2 + 2) + ceil(d / 2) + ceil(d / bucket) * (2 + 2)
    return total


@pytest.mark.parametrize("name", ["GPT-2", "BERT-large", "LLaMA-7B"])
def test_micro_adam_for_blocks_of_4096_and_buckets_of_64(models, name):
    found = accumulators(mo.MicroAdam(), models[name])
    assert found == micro_adam_by_hand(models[name])
    # 0.5 + 40 ceil(40.96) / 4096 + 4 / 64 bytes a parameter where blocks are full; short tensors add to it.
    assert 0.9628 < found / sum(leaf.size for leaf in models[name].values()) < 0.964


def test_adam_on_bert_large_takes_what_the_count_sketch_slides_measure(models):
    rule = mo.Adam()
    extra = accumulators(rule, models["BERT-large with MLM and NSP heads"])
    assert extra == 2 * 4 * 336_226_108
    assert abs(extra / 2**20 - (13_362 - 10_800)) < 0.002 * 2_562


def transformer(d: int, ff: int, tables: list[int], layers: int = 6) -> dict[str, tuple[int, ...]]:
    """Encoder and decoder without biases in attention, layer norms after every block and at both ends."""
    shapes: dict[str, tuple[int, ...]] = {f"table{i}": (rows, d) for i, rows in enumerate(tables)}

    def norm(name: str) -> None:
        shapes.update({f"{name}/scale": (d,), f"{name}/bias": (d,)})

    for side, attentions in (("encoder", 1), ("decoder", 2)):
        for layer in range(layers):
            name = f"{side}/{layer}"
            for a in range(attentions):
                shapes.update({f"{name}/attention{a}/{part}": (d, d) for part in "qkvo"})
            shapes |= {f"{name}/in": (d, ff), f"{name}/in_bias": (ff,)}
            shapes |= {f"{name}/out": (ff, d), f"{name}/out_bias": (d,)}
            for n in range(attentions + 1):
                norm(f"{name}/norm{n}")
        norm(f"{side}/norm")
    return shapes


TABLE = [
    # model, tensors, parameters, SM3 floats; GiB of parameters, SM3 with momentum, Adam, AMSGrad, Shampoo
    ("heads", 398, 336_226_108, 837_754, "1.252540", "1.255661", "2.505080", "3.757620", "26.556"),
    ("BERT", 391, 335_141_888, 801_084, "1.248501", "1.251485", "2.497002", "3.745502", "19.568"),
    ("big, 3 tables", 187, 375_304_192, 643_840, "1.398117", "1.400516", "2.796234", "4.194351", "42.818"),
    ("base, 3 tables", 187, 93_255_680, 296_192, ".347404", ".348508", ".694809", "1.042213", "24.496"),
    ("big, 1 table", 185, 209_842_176, 431_104, ".781723", ".783329", "1.563446", "2.345169", "14.414"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_the_table_of_models(models, row):
    name, tensors, count, sm3, *gib = row
    shapes = {
        "heads": models["BERT-large with MLM and NSP heads"],
        "BERT": models["BERT-large"],
        "big, 3 tables": transformer(1024, 8192, [32_000] * 3),
        "base, 3 tables": transformer(512, 2048, [32_000] * 3),
        "big, 1 table": transformer(1024, 4096, [32_768]),
    }[name]
    made = plan(shapes, {})
    assert (len(made.shapes), made.parameter_count) == (tensors, count)
    assert floats(mo.SM3(), shapes) == floats(mo.Adafactor(), shapes) == sm3
    assert floats(mo.AdaGrad(), shapes) == count
    both = accumulators(mo.SM3(momentum=0.9), shapes)
    assert both == accumulators(mo.Adafactor(beta1=0.9), shapes)
    found = [made.parameter_nbytes, both]
    found += [accumulators(rule, shapes) for rule in (mo.Adam(), mo.AMSGrad(), mo.Shampoo(interval=2))]
    for nbytes, shown in zip(found, gib, strict=True):
        # The table rounds to as many decimals as it shows.
        assert abs(nbytes / GIB - float(shown)) <= 0.5000001 * 10.0 ** -len(shown.partition(".")[2])


SMALL = ((30, 20), (4, 5, 6), (6,))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: mo.SGD(), (0, 0, 0)),
        (lambda: mo.SGD(momentum=0.9), (2400, 480, 24)),
        (lambda: mo.AdaGradNorm(), (4, 4, 4)),
        (lambda: mo.AdaGrad(), (2400, 480, 24)),
        (lambda: mo.FullMatrixAdaGrad(), (4 * 600**2, 4 * 120**2, 4 * 6**2)),
        (lambda: mo.RMSProp(), (2400, 480, 24)),
        (lambda: mo.RMSProp(momentum=0.9, centered=True), (7200, 1440, 72)),
        (lambda: mo.Adam(), (4800, 960, 48)),
        (lambda: mo.AdamW(), (4800, 960, 48)),
        (lambda: mo.FTRLProximal(), (4800, 960, 48)),
        (lambda: mo.AMSGrad(), (7200, 1440, 72)),
        (lambda: mo.SM3(), (200, 60, 24)),
        (lambda: mo.SM3(variant="I"), (200, 60, 24)),
        (lambda: mo.SM3(momentum=0.9), (2600, 540, 48)),
        (lambda: mo.Adafactor(), (200, 176, 24)),
        (lambda: mo.Adafactor(beta1=0.9), (2600, 656, 48)),
        (lambda: mo.Shampoo(), (5200, 308, 144)),
        (lambda: mo.Shampoo(interval=2), (10400, 616, 288)),
        (lambda: mo.Shampoo(interval=2, momentum=0.9), (12800, 1096, 312)),
    ],
    ids=lambda value: label(value()) if callable(value) else None,
)
def test_bytes_of_small_tensors(make, wanted):
    # As measured in torch, torch-SM3 and pytorch_optimizer, without the 4-byte step of torch.
    assert tuple(accumulators(make(), shape) for shape in SMALL) == wanted


# Nothing is allocated ---------------------------------------------------------------------------------------


def test_huge_models_are_planned_at_once_and_without_memory(models):
    rules = [mo.SGD(momentum=0.9), mo.Adam(), mo.SM3(), mo.Adafactor(), mo.MicroAdam(), mo.RowWiseAdaGrad()]
    rules += [mo.Shampoo(), mo.GGT(), mo.CountSketchAdam(), mo.CountSketchAdaGrad(), mo.LowRankAdam()]
    plan((2, 2), rules)
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        made = plan(models["LLaMA-7B"] | {"huge": ShapeDtype((10**6, 10**6), F32)}, rules)
        assert made["Adam"].accumulator_nbytes == 53_907_324_928 + 8 * 10**12
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 292 tensors, 11 rules: a kilobyte for each pair is generous; a single array would take megabytes.
    assert peak < 292 * len(rules) * 1024
    assert time.perf_counter() - begin < 5


def test_bytes_beyond_64_bits_are_exact():
    assert plan((10**12, 10**12), mo.Adam()).rules[0].accumulator_nbytes == 8 * 10**24


# What a plan tells ------------------------------------------------------------------------------------------


def test_a_plan_has_parameters_gradients_and_state_apart():
    made = plan({"a": np.zeros((3, 4), np.float16), "b": (5,)}, [mo.SGD(), mo.Adam()])
    assert (made.parameter_count, made.parameter_nbytes, made.gradient_nbytes) == (17, 44, 44)
    assert made["Adam"].accumulator_nbytes == 8 * 17  # a 16-bit parameter keeps float32 state
    assert made["Adam"].counter_nbytes == 16
    assert made.total_nbytes("Adam") == 44 + 44 + 136 + 16


def test_what_fits_is_decided_to_the_byte():
    made = plan({"w": (1000,)}, [mo.SGD(), mo.SGD(momentum=0.9)])
    assert made.fits(7999) == []
    assert made.fits(8000) == ["SGD"]
    assert made.fits("12 kB") == ["SGD", "SGD(momentum=0.9)"]


def test_rules_are_named_by_their_arguments_or_by_the_caller():
    shapes = {"w": (3,)}
    assert [r.name for r in plan(shapes, mo.SGD()).rules] == ["SGD"]
    assert [r.name for r in plan(shapes, [mo.SGD(momentum=0.5), mo.SGD(), mo.SGD()]).rules] == [
        "SGD(momentum=0.5)",
        "SGD",
        "SGD #3",
    ]
    assert [r.name for r in plan(shapes, {"mine": mo.SGD()}).rules] == ["mine"]
    assert plan(shapes, mo.SGD())["SGD"].state_nbytes == 0
    with pytest.raises(KeyError):
        plan(shapes, mo.SGD())["Adam"]


def test_groups_override_the_rule_as_in_the_optimizer():
    shapes = {"embedding": (100, 8), "layer": {"w": (8, 8), "bias": (8,)}}
    groups = [
        ("*bias", mo.Adam()),
        (lambda path, leaf: len(leaf.shape) == 2 and leaf.shape[0] > 50, mo.SM3()),
    ]
    made = plan(shapes, [mo.SGD(), mo.AdaGrad()], groups=groups)
    by_leaf = {leaf.path: (label(leaf.rule), leaf.accumulator_nbytes) for leaf in made["AdaGrad"].leaves}
    assert by_leaf == {"embedding": ("SM3", 432), "layer/bias": ("Adam", 64), "layer/w": ("AdaGrad", 256)}
    assert made["SGD"].accumulator_nbytes == 432 + 64
    with pytest.raises(PatternError):
        plan(shapes, mo.SGD(), groups=[("*biaz", mo.Adam())])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatricesOnly(SGD):
    """A rule that refuses everything but matrices."""

    def slots(self, shape, dtype):
        if len(shape) != 2:
            raise ShapeError(self.name, f"shape {shape}", "a matrix", "Use another rule for it.")
        return super().slots(shape, dtype)


def test_a_rule_that_cannot_serve_a_leaf_is_reported_with_the_leaf():
    made = plan({"w": (3, 4), "b": (4,), "c": (4,)}, [MatricesOnly(momentum=0.9), mo.SGD()])
    refused = made.rules[0].refused
    assert [leaf.path for leaf in refused] == ["b", "c"]
    assert [str(leaf.error()).partition(":")[0] for leaf in refused] == ["b", "c"]
    assert made.fits("1TiB") == ["SGD"]
    assert "cannot serve 'b'" in str(made)
    assert made.to_dict()["rules"][0]["refused"].keys() == {"b", "c"}
    with pytest.raises(ShapeError, match="b: got shape"):
        state_nbytes(MatricesOnly(), {"w": (3, 4), "b": (4,)})


def test_what_is_no_rule_is_refused():
    for rules in ("Adam", [mo.Adam], {"a": 3}, 7):
        with pytest.raises(HyperparameterError):
            plan((3,), rules)
    with pytest.raises(DtypeError):
        plan({"w": np.zeros(3, np.int32)}, mo.SGD())


def test_the_dictionary_is_plain_and_adds_up():
    made = plan({"a": (3, 4), "b": (5,)}, [mo.Adam(), mo.SM3(momentum=0.9)])
    found = json.loads(json.dumps(made.to_dict(per_leaf=True)))
    assert (found["parameters"], found["tensors"], found["parameter_nbytes"]) == (17, 2, 68)
    for rule in found["rules"]:
        assert rule["state_nbytes"] == rule["accumulator_nbytes"] + rule["counter_nbytes"]
        assert rule["state_nbytes"] == sum(sum(leaf["slots"].values()) for leaf in rule["leaves"])
        assert rule["total_nbytes"] == 2 * 68 + rule["state_nbytes"]
    assert "leaves" not in made.to_dict()["rules"][0]


def test_an_empty_model_has_a_plan():
    made = plan({}, mo.Adam())
    assert (made.parameter_count, made["Adam"].state_nbytes, made.fits(0)) == (0, 0, ["Adam"])
    assert "0 parameters" in str(made)


def test_shapes_and_arrays_give_the_same_plan():
    arrays = {"a": np.zeros((3, 4), np.float32), "b": [np.zeros(5, np.float32)]}
    shapes = {"a": (3, 4), "b": [(5,)]}
    assert prod(leaf.size for leaf in shapes_of(shapes).values()) == 60
    assert plan(arrays, mo.Adam()).to_dict(per_leaf=True) == plan(shapes, mo.Adam()).to_dict(per_leaf=True)
