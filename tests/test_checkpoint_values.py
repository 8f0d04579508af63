"""Rules as JSON: class names and fields, back to an equal rule, from a table of known classes alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref import schedules
from memopt_ref.checkpoint import values
from memopt_ref.checkpoint.values import CLASSES, NotStored, decode, encode, known_class
from memopt_ref.errors import CheckpointFormatError
from memopt_ref.parts.compressors import Compressor
from memopt_ref.parts.cover import Cover
from memopt_ref.parts.hashing import HashFamily
from memopt_ref.parts.quantize import Quantiser
from memopt_ref.parts.schedule import Schedule
from memopt_ref.rules.base import Rule
from tests.table import all_cases

SCHEDULES = [
    schedules.Constant(0.1),
    schedules.WarmUp(0.1, 7, power=1.5),
    schedules.CoolDown(1, 10, 0.25),
    schedules.InverseSqrt(0.3),
    schedules.InverseTime(0.3, 1e-300),
    schedules.Linear(1 / 3, np.float32(0.1), 4),
    schedules.Exponential(1.0, 0.5, 2),
    schedules.Cosine(5e-324, 3, 1e308),
    schedules.Piecewise([1, 2**60], [1, 0.5, -0.0]),
    2 * schedules.Constant(3) * schedules.WarmUp(0.1, 5) * 0.5,
]


def through_json(value):
    missing: list[str] = []
    text = json.dumps(encode(value, "rule", missing), allow_nan=False)
    return decode("rule", values.parse("rule", text)), missing


def assert_comes_back(value, way=through_json):
    found, missing = way(value)
    assert missing == []
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value), "1 is not 1.0, nor -0.0 0.0"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in all_cases()])
def test_every_rule_of_the_table_comes_back_equal(case):
    assert_comes_back(case.rule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_schedule_comes_back_equal_alone_and_in_a_rule(schedule):
    assert_comes_back(schedule)
    assert_comes_back(mo.SGD(momentum=0.5).replace(weight_decay=schedule))


@pytest.mark.parametrize("family", [mo.Avalanche(), mo.CarterWegman(), mo.MultiplyShift(), mo.LegacyHash()])
def test_hash_families_and_covers_come_back_equal(family):
    assert_comes_back(mo.CountSketchAdam(hash=family, seed=2**64 - 1))
    assert_comes_back(mo.SM3(cover=mo.HashCover(depth=2, width=5, seed=9, of="rows", hash=family)))
    assert_comes_back(mo.SM3(cover=mo.IndexCover(((0, 1), (1, 2), (2,)))))
    assert_comes_back(mo.TableHash([[0, 1]], [[1, -1]]))


def test_the_check_notices_what_does_not_come_back():
    def through_floats(value):
        found, missing = through_json(value)
        return dataclasses.replace(found, window=int(float(found.window)), seed=float(found.seed)), missing

    for rule, way in (
        (mo.MicroAdam(seed=3), through_floats),
        (mo.MicroAdam(), lambda rule: (rule.replace(eps=1e-7), [])),
        (mo.Adam(), lambda rule: (mo.AdamW(weight_decay=0.0), [])),
    ):
        with pytest.raises((AssertionError, ValueError)):
            assert_comes_back(rule, way)


def public_classes() -> set[type]:
    found = {getattr(mo, name) for name in mo.__all__} | {getattr(schedules, n) for n in schedules.__all__}
    return {value for value in found if isinstance(value, type)}


def test_the_table_names_every_public_class_that_a_rule_may_hold_and_no_other():
    bases = (Rule, Schedule, Cover, HashFamily, Compressor, Quantiser)
    abstract = {Rule, Schedule, Cover, HashFamily, Compressor, schedules.Function}
    wanted = {kind.__name__ for kind in public_classes() if issubclass(kind, bases) and kind not in abstract}
    assert set(CLASSES) == wanted
    assert all(dataclasses.is_dataclass(known_class(name)) for name in CLASSES)


def test_classes_that_tests_use_are_in_the_table():
    """A part that is not public would go unnoticed above."""

    def kinds(value):
        if dataclasses.is_dataclass(value):
            yield type(value).__name__
            for field in dataclasses.fields(value):
                yield from kinds(getattr(value, field.name))

    assert {name for case in all_cases() for name in kinds(case.rule)} <= set(CLASSES)


@pytest.mark.parametrize("name", ["os", "Function", "Schedule", "Rule", "Path", "eval", "", "Adam.__init__"])
def test_only_the_table_is_looked_up(name, monkeypatch):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(subprocess, "Popen", called.append)
    assert known_class(name) is None
    with pytest.raises(CheckpointFormatError):
        decode("rule", {name: {}})
    assert not called


def test_a_subclass_under_a_known_name_is_not_taken_for_the_class_of_that_name():
    Adam = type("Adam", (mo.Adam,), {})
    found, missing = through_json(Adam())
    assert missing == ["rule (a Adam)"]
    assert found == NotStored("Adam", ("rule",))


def test_what_is_missing_is_named_from_the_inside_out():
    rate = schedules.Constant(1) * schedules.Function(abs)
    found, missing = through_json(mo.Adam(learning_rate=rate, beta1=schedules.Function(abs)))
    assert missing == ["Product.factors (a Function)", "Adam.beta1 (a Function)"]
    assert str(found) == "Adam without Product.factors, Adam.beta1"


def test_a_field_that_a_release_added_has_the_value_that_it_had_before(monkeypatch):
    old = encode(mo.Adam(eps=0.5), "rule", [])
    del old["Adam"]["eps_root"]
    with pytest.raises(CheckpointFormatError, match="eps_root"):
        decode("rule", old)
    monkeypatch.setitem(values.LATER_FIELDS, ("Adam", "eps_root"), 0.25)
    assert decode("rule", old) == mo.Adam(eps=0.5, eps_root=0.25)
    assert decode("rule", encode(mo.Adam(eps_root=0.125), "", [])).eps_root == 0.125


def test_the_number_of_values_is_never_counted_too_low():
    def size(value):
        members = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + sum(map(size, members))

    for case in all_cases():
        made = encode(case.rule, "", [])
        assert values.count(json.dumps(made, separators=(",", ":"))) >= size(made)
