"""``memopt checkpoint``: figures for people and programs, and exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref.cli import main
from memopt_ref.errors import CheckpointWarning
from tests.checkpoints import adam, optimizer


def memopt(*arguments: object):
    return CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])


@pytest.fixture
def file(tmp_path):
    optimizer(3, max_norm=2.0).save(tmp_path / "run.memopt", params=True)
    return tmp_path / "run.memopt"


def test_inspect_prints_rules_leaves_slots_and_bytes(file):
    done = memopt("inspect", file)
    assert done.exit_code == 0, done.output
    assert f"{file.stat().st_size:,} bytes" in done.output
    assert "after 3 steps" in done.output
    assert "nonfinite='raise', max_norm=2.0" in done.output
    assert "rule 2: MicroAdam(" in done.output
    assert "WarmUp(value=0.1" in done.output
    assert "bfloat16[5]" in done.output
    assert "I int16[9]" in done.output
    assert "XXH3" not in done.output
    assert "XXH3" in memopt("inspect", file, "--per-tensor").output


def test_inspect_as_json_has_the_same_figures_as_the_optimizer(file):
    opt = optimizer(3)
    found = json.loads(memopt("inspect", file, "--json").stdout)
    assert found["step"] == 3
    assert found["params"] is True
    assert sum(leaf["state_nbytes"] for leaf in found["leaves"]) == opt.state_nbytes
    assert {leaf["path"] for leaf in found["leaves"]} == set(opt._arrays)
    assert [rule["stored"] for rule in found["rules"]] == [True] * 4
    tensors = json.loads(memopt("inspect", file, "--json", "--per-tensor").stdout)["tensors"]
    assert [t["name"] for t in tensors if t["name"] == "step"] == ["step"]


def test_inspect_tells_a_rule_that_is_stored_in_part(tmp_path):
    opt = mo.Optimizer(np.ones(2), mo.SGD(learning_rate=mo.schedules.Function(abs)))
    with pytest.warns(CheckpointWarning):
        opt.save(tmp_path / "f")
    assert "rule 0: SGD without SGD.learning_rate" in memopt("inspect", tmp_path / "f").output
    assert json.loads(memopt("inspect", tmp_path / "f", "--json").stdout)["rules"][0]["stored"] is False


def test_verify_says_whole_and_exits_with_0(file):
    done = memopt("verify", file, file)
    assert done.exit_code == 0
    assert done.output.count(": whole, ") == 2


def test_verify_of_a_damaged_or_missing_file_exits_with_1_and_goes_on_to_the_next(file, tmp_path):
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 4
    (tmp_path / "bad").write_bytes(raw)
    done = memopt("verify", tmp_path / "bad", tmp_path / "missing", file)
    assert done.exit_code == 1
    assert done.output.count("REFUSED") == 2
    assert ": whole, " in done.output
    found = json.loads(memopt("verify", tmp_path / "bad", file, "--json").stdout)
    assert [verdict["whole"] for verdict in found] == [False, True]
    assert "checksum" in found[0]["error"]


def test_inspect_of_what_is_no_checkpoint_is_one_line_and_exits_with_2(tmp_path):
    (tmp_path / "f").write_text("hello")
    done = memopt("inspect", tmp_path / "f")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_names_from_a_file_do_not_steer_the_terminal(tmp_path):
    mo.Optimizer({"a\x1b[2Jb": np.ones(2)}, mo.Adam()).save(tmp_path / "f")
    done = memopt("inspect", tmp_path / "f", "--per-tensor")
    assert "\x1b" not in done.output
    assert "a\\x1b[2Jb" in done.output


def test_a_large_file_is_inspected_from_its_header(tmp_path):
    adam(60_000).save(tmp_path / "f")
    raw = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(raw[:-9] + b"?" + raw[-8:])
    assert memopt("inspect", tmp_path / "f").exit_code == 0
    assert memopt("verify", tmp_path / "f").exit_code == 1
