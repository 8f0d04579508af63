"""``memopt dialects``."""

from __future__ import annotations

import json

from click.testing import CliRunner

from memopt_ref.cli import main


def run(*arguments):
    return CliRunner().invoke(main, ["dialects", *arguments])


def test_prints_conventions_and_distances():
    result = run("adagrad", "sm3")
    assert result.exit_code == 0
    assert "torch.Adagrad(lr=0.01)" in result.output
    assert "initial_accumulator=0.1 (paper 0.0)" in result.output
    assert "momentum=0.9 (paper 0.0)" in result.output


def test_json_is_all_that_is_printed():
    result = run("SM3", "--json", "--seed", "3")
    assert result.exit_code == 0
    (compared,) = json.loads(result.output)
    assert compared["name"] == "sm3"
    assert compared["rows"][0]["difference"] == 0
    assert compared["rows"][1]["differs"]["momentum"] == {"paper": 0.0, "here": 0.9}


def test_unknown_name_is_one_line_and_exit_code_2():
    result = run("lion")
    assert result.exit_code == 2
    assert "error: dialects: got 'lion'" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_row_without_a_rule_says_why():
    result = run("adafactor")
    assert result.exit_code == 0
    assert "no rule" in result.output
