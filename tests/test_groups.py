"""Groups: which rule steps which leaf. The first match wins; the rest gets the optimizer's own rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memopt_ref as mo
from memopt_ref.errors import PatternError
from memopt_ref.groups import assign
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD

LEAVES = {
    "embedding/table": np.zeros((8, 2)),
    "layers/0/bias": np.zeros(2),
    "layers/0/kernel": np.zeros((2, 2)),
    "layers/1/bias": np.zeros(2),
    "layers/1/kernel": np.zeros((2, 2)),
}
DEFAULT, A, B = SGD(), Adam(), SGD(momentum=0.9)


def chosen(groups):
    """Path -> position of the group, or None for the default rule."""
    rules = [rule for _, rule in groups]
    found = assign(LEAVES, DEFAULT, groups)
    return {path: next((k for k, r in enumerate(rules) if r is rule), None) for path, rule in found.items()}


def test_without_groups_every_leaf_has_the_default_rule():
    assert all(rule is DEFAULT for rule in assign(LEAVES, DEFAULT, ()).values())


def test_a_glob_matches_the_whole_path_and_its_star_crosses_slashes():
    assert [p for p, k in chosen([("*bias", A)]).items() if k == 0] == ["layers/0/bias", "layers/1/bias"]
    assert [p for p, k in chosen([("layers/?/kernel", A)]).items() if k == 0] == [
        "layers/0/kernel",
        "layers/1/kernel",
    ]
    assert [p for p, k in chosen([("layers/[1-9]/*", A)]).items() if k == 0] == [
        "layers/1/bias",
        "layers/1/kernel",
    ]
    with pytest.raises(PatternError):
        chosen([("bias", A)])


def test_globs_tell_upper_case_from_lower_case():
    with pytest.raises(PatternError):
        chosen([("*BIAS", A)])


def test_a_predicate_sees_path_and_array():
    by_shape = chosen([(lambda path, w: w.ndim == 2 and path.startswith("layers"), A)])
    assert [p for p, k in by_shape.items() if k == 0] == ["layers/0/kernel", "layers/1/kernel"]


def test_the_first_match_wins_even_if_it_leaves_a_later_group_nothing():
    assert set(chosen([("*", A), ("*bias", B)]).values()) == {0}
    mixed = chosen([("*bias", A), ("layers/*", B)])
    assert mixed == {
        "embedding/table": None,
        "layers/0/bias": 0,
        "layers/0/kernel": 1,
        "layers/1/bias": 0,
        "layers/1/kernel": 1,
    }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sets(st.sampled_from(sorted(LEAVES)), min_size=1), max_size=5))
def test_every_leaf_gets_the_first_group_that_holds_it(sets):
    groups = [(lambda path, w, held=held: path in held, Adam(eps=k + 1.0)) for k, held in enumerate(sets)]
    expected = {p: next((k for k, held in enumerate(sets) if p in held), None) for p in LEAVES}
    assert chosen(groups) == expected


def test_the_property_above_would_notice_the_last_match_winning():
    last_wins = chosen([("*", A), ("*bias", B)][::-1])
    assert last_wins != chosen([("*", A), ("*bias", B)])


def test_groups_of_an_optimizer_have_the_bits_of_two_separate_rules():
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal(w.shape).astype(np.float32) for path, w in LEAVES.items()}
    grads = {path: rng.standard_normal(w.shape).astype(np.float32) for path, w in LEAVES.items()}
    expected = {}
    for path in LEAVES:
        rule = A if path.endswith("bias") else B
        expected[path] = rule.update(
            {path: params[path]}, {path: grads[path]}, rule.init({path: params[path]})
        )[0]
    opt = mo.Optimizer(params, B, groups=[("*bias", A)])
    opt.step(grads)
    for path, tree in expected.items():
        assert params[path].tobytes() == tree[path].tobytes()
    assert set(opt.state["leaves"]["layers/0/bias"]) == {"m", "v", "t"}
    assert set(opt.state["leaves"]["layers/0/kernel"]) == {"m"}


def test_a_seed_belongs_to_the_path_and_not_to_the_position():
    """A leaf's state is that of the same leaf in a smaller tree: groups and order cannot move its seed."""
    table = mo.CountSketchAdam(compression=2.0, depth=3)
    small = mo.Optimizer({"embedding/table": np.zeros((8, 2))}, table)
    large = mo.Optimizer({p: w.copy() for p, w in reversed(LEAVES.items())}, SGD(), groups=[("emb*", table)])
    a, b = small.state["leaves"]["embedding/table"], large.state["leaves"]["embedding/table"]
    assert {n: np.asarray(v).tobytes() for n, v in a.items()} == {
        n: np.asarray(v).tobytes() for n, v in b.items()
    }
