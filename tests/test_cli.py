"""The command line: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import safetensors.numpy
from click.testing import CliRunner

import memopt_ref
from memopt_ref.cli import COMMANDS, main
from memopt_ref.cli.output import SIZE, console, print_json, table
from memopt_ref.cli.plan import DEFAULT_RULES
from memopt_ref.cli.rule_text import known_names, parse_rules
from memopt_ref.errors import HyperparameterError
from memopt_ref.parts.covers import HashCover
from memopt_ref.rules.adam import Adam
from memopt_ref.rules.sgd import SGD
from memopt_ref.rules.sm3 import SM3

REAL = json.loads((Path(__file__).parent / "golden" / "hf_shapes.json").read_text())["real"]


def memopt(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def plan_json(*arguments: str) -> dict:
    done = memopt("plan", *arguments, "--json")
    assert done.exit_code in (0, 1), done.output
    return json.loads(done.stdout)


# The group --------------------------------------------------------------------------------------------------


def test_help_and_version_say_what_there_is():
    assert memopt("--version").output == f"memopt, version {memopt_ref.__version__}\n"
    done = memopt("--help")
    assert done.exit_code == 0
    assert all(name in done.output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help_and_json(name):
    done = memopt(name, "--help")
    assert done.exit_code == 0, done.output
    assert "--json" in done.output


def test_an_unknown_command_is_refused():
    done = memopt("plann")
    assert done.exit_code == 2
    assert "No such command 'plann'" in done.stderr


def test_an_error_of_the_library_is_one_line_and_exit_code_2():
    command = [sys.executable, "-m", "memopt_ref", "plan", "--shapes", "w=3*4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: shapes: got 'w=3*4'; wanted")
    assert "Traceback" not in done.stderr


# Rules as text ----------------------------------------------------------------------------------------------


def test_rules_are_read_with_their_arguments():
    rules = parse_rules("adam, SGD(momentum=0.9, nesterov=True), SM3(cover=HashCover(depth=2, width=8))")
    assert rules == {
        "Adam": Adam(),
        "SGD(momentum=0.9, nesterov=True)": SGD(momentum=0.9, nesterov=True),
        "SM3(cover=HashCover(depth=2, width=8))": SM3(cover=HashCover(2, 8)),
    }


def test_every_rule_of_the_library_can_be_named():
    rules = [name for name in known_names().values() if "Cover" not in name]
    assert len(parse_rules(", ".join(rules))) == len(rules)
    assert "IndexCover" in known_names().values()


def test_the_default_rules_are_all_different():
    assert len(parse_rules(DEFAULT_RULES)) == DEFAULT_RULES.replace("(", "").count(",") + 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "at least one rule"),
        ("Adma", "'Adma'; wanted one of AMSGrad"),
        ("Adam, Adam", "Adam twice"),
        ("Adam(", "brackets"),
        ("Adam(beta1=2)", r"Adam.beta1: got 2"),
        ("Adam(beta3=0.9)", "arguments among learning_rate"),
        ("Adam(0.1)", "Give them by name"),
        ("Adam(beta1=__import__('os'))", "'__import__'"),
        ("Adam(**{})", "a literal or a rule"),
        ("Adam.__class__", "a literal or a rule"),
        ("Adam(beta1=[x for x in (1,)])", "a literal or a rule"),
        ("3", "Name a rule"),
        ("HashCover(1, 2)", "Name a rule"),
        ("Adam] + [SGD", "--rules: got"),
        ("(" * 5000, "brackets"),
        ("\0", "brackets"),
    ],
)
def test_text_that_names_no_rules_is_refused_and_never_run(text, match):
    with pytest.raises(HyperparameterError, match=match):
        parse_rules(text)


# Output -----------------------------------------------------------------------------------------------------


def test_json_is_strict(capsys):
    import numpy as np

    print_json({"a": float("nan"), "b": [float("inf"), np.float32(1.5)], "c": np.arange(2), "d": None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": [0, 1], "d": None}


def test_a_table_in_a_log_keeps_its_figures_and_shows_markup_as_it_is(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    console().print(table(["name", ">bytes"], [["[red]x[/red]" * 3, f"{10**40:,}"]]))
    assert f"{10**40:,}" in capsys.readouterr().out


def test_names_from_a_file_cannot_steer_the_terminal(tmp_path):
    import numpy as np

    file = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w\x1b[2J": np.zeros(3, np.float32)}, file)
    done = memopt("plan", "--safetensors", str(file), "--rules", "Adam, CountSketchAdam", "--per-leaf")
    assert "\x1b[2J" not in done.output
    assert "w\\x1b[2J" in done.output
    safetensors.numpy.save_file({"w\x1b[2J": np.zeros(3, np.uint8)}, file)
    header = file.read_bytes().replace(b'"U8"', b'"F8"')
    file.write_bytes(header)
    done = memopt("plan", "--safetensors", str(file))
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr


def test_colour_is_left_out_on_demand(capsys, monkeypatch):
    for name in ("TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console().print("[red]x[/red]")
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    console().print("[red]x[/red]")
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_size_option_names_itself_in_its_error():
    option = click.Option(["--budget"], type=SIZE)
    with pytest.raises(HyperparameterError, match="--budget: got '24G'"):
        SIZE.convert("24G", option, None)


# plan -------------------------------------------------------------------------------------------------------


def test_plan_prints_a_table_with_the_exact_bytes():
    done = memopt("plan", "--shapes", "emb=50257x768,b=768", "--rules", "Adam, SM3")
    assert done.exit_code == 0, done.output
    assert "38,598,144 parameters in 2 tensors: 147.2 MiB" in done.output
    assert "308,785,152" in done.output
    assert "207,172" in done.output


def test_plan_with_its_default_rules_serves_a_real_model(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(next(case["config"] for case in REAL if case["name"] == "GPT-2")))
    found = plan_json("--hf-config", str(file))
    assert found["parameters"] == 124_439_808
    assert len(found["rules"]) == len(parse_rules(DEFAULT_RULES))
    assert [rule["name"] for rule in found["rules"] if rule["refused"]] == []
    assert {rule["name"]: rule["accumulator_nbytes"] for rule in found["rules"]}["Adam"] == 995_518_464


def test_plan_reads_a_safetensors_file_and_leaves_out_what_is_excluded(tmp_path):
    import numpy as np

    arrays = {"w": np.zeros((3, 4), np.float16), "h.0.attn.bias": np.zeros((1, 1, 8, 8), np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors")
    model = ["--safetensors", str(tmp_path / "m.safetensors"), "--rules", "Adam"]
    assert plan_json(*model)["parameters"] == 12 + 64
    found = plan_json(*model, "--exclude", "*.attn.bias")
    assert (found["parameters"], found["parameter_nbytes"], found["rules"][0]["accumulator_nbytes"]) == (
        12,
        24,
        96,
    )
    assert plan_json(*model, "--dtype", "float64")["rules"][0]["accumulator_nbytes"] == 16 * 76


def test_plan_says_what_fits_and_fails_when_nothing_does():
    model = ["--shapes", "w=1000", "--rules", "SGD, Adam"]
    # 4,000 bytes of parameters, as many of gradients, 8,008 of Adam's state.
    done = memopt("plan", *model, "--budget", "16008")
    assert done.exit_code == 0
    assert plan_json(*model, "--budget", "16008")["fits"] == ["SGD", "Adam"]
    assert plan_json(*model, "--budget", "16007")["fits"] == ["SGD"]
    done = memopt("plan", *model, "--budget", "7999 B")
    assert done.exit_code == 1
    assert "fits 7.81 KiB" in done.output
    assert memopt("plan", *model, "--budget", "7999", "--json").exit_code == 1


def test_plan_shows_every_tensor_on_demand():
    done = memopt("plan", "--shapes", "emb=5x7,b=7", "--rules", "Adam", "--per-leaf")
    assert "5x7" in done.output
    leaves = plan_json("--shapes", "emb=5x7,b=7", "--rules", "Adam", "--per-leaf")["rules"][0]["leaves"]
    assert {leaf["path"]: leaf["accumulator_nbytes"] for leaf in leaves} == {"b": 56, "emb": 280}


def test_plan_gives_tensors_that_match_another_rule():
    found = plan_json("--shapes", "emb=50x4,b=4", "--rules", "Adam", "--group", "emb=SM3", "--per-leaf")
    assert {leaf["path"]: leaf["rule"] for leaf in found["rules"][0]["leaves"]} == {"b": "Adam", "emb": "SM3"}


def test_plan_reports_a_rule_that_cannot_serve_a_tensor():
    done = memopt("plan", "--shapes", "w=100x100", "--rules", "SGD, FullMatrixAdaGrad", "--budget", "1TiB")
    assert done.exit_code == 0
    assert "FullMatrixAdaGrad cannot serve w: got" in done.output
    assert plan_json("--shapes", "w=100x100", "--rules", "FullMatrixAdaGrad")["rules"][0]["refused"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "0 models"),
        (["--shapes", "w=3", "--hf-config", "x"], "2 models"),
        (["--shapes", "w=3", "--architecture", "BertModel"], "--hf-config with it"),
        (["--shapes", "w=3", "--budget", "24G"], "--budget: got '24G'"),
        (["--shapes", "w=3", "--dtype", "int32"], "dtype int32"),
        (["--shapes", "w=3", "--exclude", "z*"], "a glob that matches a tensor"),
        (["--shapes", "w=3", "--group", "w"], "GLOB=RULE"),
        (["--shapes", "w=3", "--group", "w=Adam,SGD"], "GLOB=RULE"),
        (["--shapes", "w=3", "--group", "z=Adam"], "a pattern that matches a leaf"),
        (["--safetensors", "missing.safetensors"], "missing.safetensors: got No such file"),
        (["--hf-config", "missing.json"], "missing.json: got No such file"),
    ],
)
def test_plan_refuses_bad_input_with_exit_code_2(arguments, match):
    done = memopt("plan", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert match in done.stderr
