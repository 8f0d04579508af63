"""What the README shows is what one gets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs(capsys):
    code, _ = re.findall(r"```python\n(.*?)```", README, re.S)  # the other is tests/cupy_gpu/test_readme.py's
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "[[ 0.  1.  4.]" in printed
    assert "CountSketchAdam" in printed


def blocks(command: str) -> list[str]:
    return [text for text in re.findall(r"```\n\$ (.*?)```", README, re.S) if text.startswith(command)]


def test_the_plan_of_the_readme_is_what_the_command_prints(monkeypatch):
    (block,) = blocks("memopt plan")
    command, _, shown = block.partition("\n")
    monkeypatch.setenv("COLUMNS", "120")
    printed = CliRunner().invoke(main, shlex.split(command)[1:]).output
    assert [line.rstrip() for line in shown.strip().splitlines()] == [
        line.rstrip() for line in printed.strip().splitlines()
    ]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(path):
    assert (ROOT / path).exists()


def test_the_readme_names_every_rule():
    rules = [
        name
        for name in mo.__all__
        if isinstance(getattr(mo, name), type) and issubclass(getattr(mo, name), mo.Rule) and name != "Rule"
    ]
    assert [name for name in rules if f"`{name}`" not in README] == []
