"""Rules with compressors replay without rounding: the same class on objects, the same decisions."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.compressors import OneBit, ScaledSign, TopK
from memopt_ref.rules.analysed_microadam import AnalysedMicroAdam
from memopt_ref.rules.error_feedback import EF21, ErrorFeedbackSGD
from memopt_ref.rules.microadam import MicroAdam
from memopt_ref.rules.topk_adam import TopKAdam
from tests.exact import Exact, exact
from tests.steps import normal

SHORT = {"window": 3, "density": 0.3, "value_dtype": "float64", "eps": 0.5, "bucket": 5}
RULES = [
    MicroAdam(**SHORT, error_bits=None),
    MicroAdam(**SHORT),
    MicroAdam(**SHORT, rounding="stochastic"),
    AnalysedMicroAdam(compressor=TopK(k=2, block=4), eps=0.1),
    AnalysedMicroAdam(compressor=OneBit(), quantiser=None, eps=0.1),
    TopKAdam(compressor=ScaledSign(), eps=0.1, error_feedback=True),
    ErrorFeedbackSGD(compressor=TopK(k=2), error_bits=4, rounding="stochastic", bounds_dtype="float64"),
    EF21(compressor=OneBit()),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_replay_on_exact_numbers_takes_the_same_steps(rule):
    """Seven steps of weights below 4: a few times 7 * 2^-52 * 4 if no decision differs."""
    w = normal(3, 4)
    again, state, replayed = exact(w), rule.init_leaf(w), rule.init_leaf(exact(w))
    for g in normal(7, 3, 4, seed=1):
        w, state = rule.advance(w, g, state)
        again, replayed = rule.advance(again, exact(g), replayed)
    assert all(isinstance(x, Exact) for x in again.reshape(-1))
    assert np.abs(w - again.astype(np.float64)).max() < 2e-14
