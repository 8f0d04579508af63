"""``memopt tune`` and ``memopt backends``: what is printed, and with which exit code."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref import backends
from memopt_ref.backends.tuning import machine, store
from memopt_ref.cli import main
from tests.tuning_toys import FAST, SLOW, one_bit_off, paused, quick, toy, toys

__all__ = ["toys"]

ONE = ("--rules", "Adam", "--shapes", "w=1000")


def memopt(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def as_json(*arguments: str):
    done = memopt(*arguments, "--json")
    return json.loads(done.stdout), done.exit_code


@pytest.fixture
def two_speeds(toys):
    toys(toy(paused, {"pause": (SLOW, FAST)}))


def test_tune_measures_each_key_once_and_keeps_it(two_speeds):
    found, code = as_json("tune", "--rules", "Adam, SM3", "--shapes", "a=1000,b=30x33,c=1000x2")
    assert code == 0
    assert [(one["rule"], one["shape"]) for one in found] == [
        ("Adam", [1000]),
        ("Adam", [1000, 2]),
        ("SM3", [1000]),
        ("SM3", [30, 33]),
        ("SM3", [1000, 2]),
    ]
    assert {one["status"] for one in found} == {"measured"}
    assert {one["entry"]["knobs"]["pause"] for one in found} == {FAST}
    assert len(store.places()) == 5
    found, _ = as_json("tune", *ONE)
    assert found[0]["status"] == "stored"
    found, _ = as_json("tune", *ONE, "--anew")
    assert found[0]["status"] == "measured"


def test_tune_tells_what_it_does_on_stderr_and_prints_a_table(two_speeds):
    done = memopt("tune", *ONE)
    assert done.exit_code == 0
    assert "1 of 1: Adam float32[1000]: toy.paused(pause=0.001) was measured 300 % faster" in done.stderr
    assert "300 %" in done.stdout
    assert "toy.paused(pause=0.001)" in done.stdout


def test_tune_takes_the_common_rules_and_sizes_by_default(two_speeds, monkeypatch):
    asked = []
    monkeypatch.setattr(mo.tuning, "tune", lambda *arguments: asked.append(arguments) or [])
    assert memopt("tune").exit_code == 0
    ((rules, shapes, *_),) = asked
    assert {"Adam", "SM3", "Adafactor", "MicroAdam"} <= {rule.name for rule in rules}
    assert (4096, 4096) in shapes


def test_a_rule_with_one_kernel_or_none_is_said_so(toys):
    toys()
    found, code = as_json("tune", *ONE)
    assert (found[0]["status"], found[0]["entry"], code) == ("alone", None, 0)
    assert "numpy_ref is the only kernel" in found[0]["why"]
    found, code = as_json("tune", "--rules", "FullMatrixAdaGrad", "--shapes", "w=3x4:bfloat16")
    assert found[0]["status"] in ("alone", "refused")


def test_company_is_exit_code_1_and_nothing_is_kept(two_speeds, monkeypatch):
    monkeypatch.setattr(machine, "company", lambda: lambda: 0.3)
    done = memopt("tune", *ONE)
    assert done.exit_code == 1
    assert "1 of 1 were measured in company and are not kept" in done.stderr
    assert store.places() == []


def test_a_kernel_with_wrong_bits_is_exit_code_1(toys):
    toys(toy(quick), toy(one_bit_off))
    with pytest.warns(RuntimeWarning, match="toy.one_bit_off is left out"):
        found, code = as_json("tune", *ONE)
    assert code == 1
    assert "bits" in found[0]["entry"]["wrong"]["toy.one_bit_off"]
    assert found[0]["entry"]["variant"] == "toy.quick"


def test_list_shows_who_was_taken_and_clear_removes_it(two_speeds, toys):
    memopt("tune", *ONE)
    done = memopt("tune", "list")
    assert done.output.startswith("1 keys in ")
    assert "1.00  toy.paused(pause=0.001) <- taken" in done.output
    assert "4.00  toy.paused (the default)" in done.output
    assert "out  numpy_ref: more than 3 times slower" in done.output
    (entry,), code = as_json("tune", "list")
    assert (entry["rounds"], code) == (25, 0)
    assert as_json("tune", "clear") == ({"removed": 1}, 0)
    assert memopt("tune", "clear", "--everywhere").output == "0 keys removed\n"
    assert as_json("tune", "list") == ([], 0)


def test_export_and_import_take_all_or_nothing(two_speeds, tmp_path):
    memopt("tune", *ONE)
    file = tmp_path / "wisdom.json"
    assert memopt("tune", "export", str(file)).output == f"1 keys written to {file}\n"
    memopt("tune", "clear")
    assert as_json("tune", "import", str(file)) == ({"path": str(file), "keys": 1}, 0)
    file.write_text("{}")
    done = memopt("tune", "import", str(file))
    assert done.exit_code == 2
    assert "Object missing required field" in done.stderr
    assert len(store.places()) == 1


def test_a_mode_that_there_is_not_is_exit_code_2(monkeypatch):
    monkeypatch.setenv("MEMOPT_TUNE", "always")
    done = memopt("backends", "--rules", "Adam")
    assert done.exit_code == 2
    assert "MEMOPT_TUNE: got 'always'" in done.stderr


def test_backends_shows_who_can_run_and_which_rule_has_a_kernel():
    found, code = as_json("backends", "--rules", "Adam, Shampoo")
    assert code == 0
    assert [row["name"] for row in found["backends"]] == [row.name for row in backends.status()]
    fast = backends.status()[0].available
    adam, shampoo = found["kernels"]
    assert adam["kernel"] == ("numba.elementwise" if fast else "numpy_ref")
    assert shampoo["kernel"] == "numpy_ref"
    assert "no kernel for Shampoo" in shampoo["why"] or not fast
    assert found["tuning"] == mo.tuning.mode()
    assert found["threads"]["processors"] >= 1
    assert ("threading layers" in found["threads"]) == fast
    done = memopt("backends", "--rules", "Adam", "--shape", "3x4:bfloat16")
    assert "kernel for bfloat16[3, 4]" in done.output


def test_backends_shows_folders_and_their_sizes(monkeypatch, tmp_path, two_speeds):
    memopt("tune", *ONE)
    folder = store.folder()
    (folder.parent / "numba-0123").mkdir()
    (folder.parent / "numba-0123" / "kernel").write_bytes(bytes(3000))
    found, _ = as_json("backends", "--rules", "Adam")
    mine, other = found["folders"]
    assert mine["path"] == str(folder)
    assert (mine["what"], mine["files"], mine["used"]) == ("measured keys", 1, True)
    assert (other["what"], other["files"], other["nbytes"], other["used"]) == (
        "compiled kernels",
        1,
        3000,
        False,
    )
    done = memopt("backends", "--rules", "Adam")
    assert "folders of other versions beside them: 1, 2.93 KiB" in done.output
    assert sorted(p.name for p in folder.parent.iterdir()) == ["numba-0123", folder.name], "it makes nothing"


def test_backends_says_why_numba_cannot_run(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    found, code = as_json("backends", "--rules", "Adam")
    row = found["backends"][0]
    assert (row["available"], code) == (False, 0)
    assert row["reason"] in ("NUMBA_DISABLE_JIT is set", "numba is not installed")
    assert found["kernels"][0]["kernel"] == "numpy_ref"
    assert found["settings"]["NUMBA_DISABLE_JIT"] == "1"
    assert "threads" not in found["threads"]
