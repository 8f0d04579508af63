"""Each bracket's lower end is played, and below its upper end."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
from click.testing import CliRunner

from memopt_ref.cli.verify import verify as command
from memopt_ref.rules.sgd import SGD
from memopt_ref.schedules import InverseTime
from memopt_ref.theory import constants, games, search
from memopt_ref.theory.bounds import get
from memopt_ref.theory.verify import HOLDS, TIGHT, VIOLATED, verify

TABLE = list(constants.brackets())


@cache
def replayed(k):
    return TABLE[k].replay()


@pytest.mark.parametrize("k", range(len(TABLE)), ids=[f"{b.bound.id}-{b.T}" for b in TABLE])
def test_a_witness_reaches_its_figure(k):
    bracket, record = TABLE[k], replayed(k)
    assert record.verdict == (TIGHT if bracket.below == bracket.above else HOLDS), record.broken
    # Four digits are printed.
    assert record.ratio == pytest.approx(bracket.below, abs=6e-5)
    assert bracket.below <= bracket.above


def test_a_smaller_constant_would_be_violated():
    for k, bracket in enumerate(TABLE):
        record = replayed(k)
        assert record.measured[0] > 0.99 * bracket.below * record.value


def test_shorter_sign_sequences_are_less_bad():
    rule, before = search.player(get("adagrad.mirror"), 26), 0.0
    for T in (8, 12, 16):
        ratio = search.exhaustive(rule, T).regret / (2 * math.sqrt(2 * T))
        assert before < ratio < 0.6496
        before = ratio


def test_the_command_prints_brackets():
    found = CliRunner().invoke(command, ["list", "--constants", "--json"])
    assert found.exit_code == 0, found.output
    rows = json.loads(found.output)
    assert len(rows) == len(TABLE)
    assert {"bound", "below", "above", "witness", "T", "tends", "why"} == set(rows[0])
    text = CliRunner().invoke(command, ["list", "--constants"]).output
    assert "ogd.tuned" in text
    shown = CliRunner().invoke(command, ["show", "adagrad.mirror"]).output
    assert shown.count("constant ") == 2
    assert "0.9549 to 1" in shown
    assert "tends to 1 with T" in shown


def test_the_wall_tends_to_the_bound_of_adagrad():
    """1 - ratio falls like 1 / sqrt(T): no smaller constant than sqrt(2) D holds for all T."""
    ratios = [verify(get("adagrad.mirror"), games.wall_of(T), T).ratio for T in (64, 256, 1024)]
    assert ratios[1] > 0.91
    for T, ratio in zip((64, 256, 1024), ratios, strict=True):
        assert 1.2 < (1 - ratio) * math.sqrt(T) < 1.5
    falling = [verify(get("ogd.sqrt2"), games.falling_wall(T), T).ratio for T in (64, 1024)]
    assert falling[0] < 0.8 < 0.92 < falling[1]


def test_leading_bowls_attain_the_bound_and_show_a_long_step():
    bound, game = get("ogd.sc"), games.leading_bowls()
    assert verify(bound, game, 50).verdict == TIGHT
    for factor in (1.1, 2.0):
        record = verify(bound, game, 50, SGD(learning_rate=InverseTime(factor, 1.0)))
        assert record.verdict == VIOLATED
        assert record.ratio > 1 + (factor - 1) / 2
