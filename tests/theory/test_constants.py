"""Each bracket's lower end is played, and below its upper end."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner

from memopt_ref.cli.verify import verify as command
from memopt_ref.theory import constants, search
from memopt_ref.theory.bounds import get
from memopt_ref.theory.verify import HOLDS, TIGHT

TABLE = list(constants.brackets())


@pytest.mark.parametrize("bracket", TABLE, ids=lambda b: f"{b.bound.id}-{b.T}")
def test_a_witness_reaches_its_figure(bracket):
    record = bracket.replay()
    assert record.verdict == (TIGHT if bracket.below == bracket.above else HOLDS), record.broken
    # Four digits are printed.
    assert record.ratio == pytest.approx(bracket.below, abs=6e-5)
    assert bracket.below <= bracket.above


def test_a_smaller_constant_would_be_violated():
    for bracket in TABLE:
        record = bracket.replay()
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
    assert {"bound", "below", "above", "witness", "T", "why"} == set(rows[0])
    text = CliRunner().invoke(command, ["list", "--constants"]).output
    assert "ogd.tuned" in text
    shown = CliRunner().invoke(command, ["show", "adagrad.mirror"]).output
    assert shown.count("constant ") == 2
    assert "0.8433 to 1" in shown
