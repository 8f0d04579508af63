"""``memopt verify``: verdicts, exit codes, and rules that are broken on purpose."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from memopt_ref.cli import main
from memopt_ref.rules.error_feedback import ErrorFeedbackSGD
from memopt_ref.rules.shampoo import Shampoo
from memopt_ref.rules.sm3 import SM3
from memopt_ref.theory import games, suites, verify
from memopt_ref.theory.bounds import all_bounds, get, ogd
from memopt_ref.theory.geometry import L2Ball
from memopt_ref.theory.witness import Witness


def memopt(*arguments):
    return CliRunner().invoke(main, ["verify", *arguments])


def test_the_list_names_every_theorem():
    done = memopt("list", "--json")
    assert done.exit_code == 0
    assert [sheet["id"] for sheet in json.loads(done.stdout)] == list(all_bounds())
    table = memopt("list", "--family", "sm3")
    assert "sm3.II.eta" in table.stdout
    assert "adagrad" not in table.stdout
    assert memopt("list", "--family", "none").exit_code == 2


def test_every_theorem_has_a_sheet():
    for name, bound in all_bounds().items():
        assert bound.statement
        assert bound.source
        assert bound.known_false == bound.statement.startswith("FALSE"), name
        assert bound.errata or not bound.known_false
        done = memopt("show", name)
        assert done.exit_code == 0
        assert bound.statement[:40] in done.stdout
    assert memopt("show", "ogd.none").exit_code == 2


def test_one_bound_on_one_game():
    done = memopt("run", "--bound", "ogd.tuned", "--game", "zigzag_run", "-T", "64", "--json")
    assert done.exit_code == 0
    (record,) = json.loads(done.stdout)["records"]
    assert (record["verdict"], record["measured"], record["value"]) == ("TIGHT", [8.0, 8.0], 8.0)


def test_input_that_is_wrong_has_exit_code_two():
    for arguments in (
        ["run", "--game", "zigzag_run"],
        ["run", "--game", "chess", "--bound", "ogd.tuned"],
        ["run", "--bound", "nothing"],
        ["attack", "sm3.II", "--search", "signs"],
        ["attack", "ogd.tuned", "--factor", "-1"],
        ["attack", "ogd.tuned", "--search", "signs", "-T", "40"],
        ["replay", "no_such_file.json"],
        ["mutate", "--only", "no such mutant"],
    ):
        assert memopt(*arguments).exit_code == 2, arguments


def test_the_core_suite_is_as_expected(core):
    records = core
    assert suites.exit_code(records) == 0, [r for r in records if not r.ok]
    assert {r.verdict for r in records} >= {"TIGHT", "HOLDS", "VACUOUS", "N/A", "VIOLATED"}
    bounds = {r.bound for r in records}
    assert bounds == set(all_bounds())
    again = list(suites.run(suites.core()[5:15]))
    assert [r.measured for r in again] == [r.measured for r in records[5:15]]


def test_the_whole_suite_contains_the_core():
    assert len(suites.full()) > len(suites.core())


def _mean_in_sm3(monkeypatch):
    from memopt_ref.parts.covers import AxisCover

    def mean(self, x):
        return {f"mu_{a}": np.mean(x, axis=tuple(b for b in range(x.ndim) if b != a)) for a in range(x.ndim)}

    monkeypatch.setattr(AxisCover, "reduce", mean)


def _euclidean_projection(monkeypatch):
    project = L2Ball.project
    monkeypatch.setattr(L2Ball, "project", lambda self, y, metric=None: project(self, y, None))


def _no_error_feedback(monkeypatch):
    step = ErrorFeedbackSGD.step

    def forgetful(self, w, g, state):
        values = step(self, w, g, state)
        return values | {"e": np.zeros_like(values["e"])} if "e" in values else values

    monkeypatch.setattr(ErrorFeedbackSGD, "step", forgetful)


def _exponent_of_shampoo(monkeypatch):
    step = Shampoo.step
    monkeypatch.setattr(Shampoo, "step", lambda self, w, g, state: step(_eighth(self), w, g, state))


def _eighth(rule):
    return rule if rule.exponent is not None else rule.replace(exponent=-0.125)


def _long_kernel(monkeypatch):
    step = SM3.step

    def long(self, w, g, state):
        values = step(self, w, g, state)
        return values | {"w": w + 1.1 * (values["w"] - w)}

    monkeypatch.setattr(SM3, "step", long)


@pytest.mark.parametrize(
    ("breaks", "bound", "link"),
    [
        (_mean_in_sm3, "sm3.II", "below"),
        (_euclidean_projection, "adagrad.mirror", "projection"),
        (_exponent_of_shampoo, "shampoo.tuned", "metric"),
        (_no_error_feedback, "error_feedback.topk", "virtual iterate"),
        (_long_kernel, "sm3.I", "metric"),
    ],
)
def test_a_rule_broken_on_purpose_fails_and_is_named(monkeypatch, breaks, bound, link):
    assert memopt("run", "--bound", bound).exit_code == 0
    breaks(monkeypatch)
    done = memopt("run", "--bound", bound, "--json")
    assert done.exit_code == 1
    bad = [r for r in json.loads(done.stdout)["records"] if not r["ok"]]
    assert bad
    assert all(r["bound"] == bound for r in bad)
    assert any(text.startswith(link) for r in bad for text in r["broken"])
    said = memopt("run", "--bound", bound)
    assert link in said.stdout
    assert bound in said.stdout


def test_attack_replay_and_their_exit_codes(tmp_path):
    file = tmp_path / "w.json"
    held = memopt("attack", "adagrad.mirror", "-T", "10", "--search", "signs", "--json")
    assert held.exit_code == 0
    assert json.loads(held.stdout)["ratio"].startswith("0.5489664467")
    Witness("adagrad.mirror", 2.0, tuple(map(str, games.W2)), 1.016).save(file)
    done = memopt("replay", str(file), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["arithmetic"] == "50 digits"
    broken = memopt(
        "attack", "ogd.tuned", "-T", "16", "--factor", "2", "--generations", "60", "--save", str(file)
    )
    assert broken.exit_code == 1
    assert "violated     True" in broken.stdout
    assert memopt("replay", str(file)).exit_code == 1


def test_what_no_sequence_can_attack_is_not_applicable():
    done = memopt("attack", "point_queries.count_min", "--json")
    assert done.exit_code == 0
    fields = json.loads(done.stdout)
    assert (fields["verdict"], fields["reason"][:6]) == ("N/A", "exact:")


def test_attack_and_replay_where_coordinates_are_coupled(tmp_path):
    file = tmp_path / "w.json"
    done = memopt("attack", "sm3.II", "-T", "6", "--generations", "3", "--save", str(file), "--json")
    assert done.exit_code == 0
    fields = json.loads(done.stdout)
    assert (fields["arena"], fields["arithmetic"], fields["verdict"]) == ("table", "50 digits", "HOLDS")
    assert len(fields["gradients"]) == 6 * 4
    again = memopt("replay", str(file), "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["ratio"] == fields["ratio"]
    # Four times the rate: the link is named, and so is the theorem.
    said = memopt("attack", "sm3.II", "-T", "6", "--generations", "1", "--factor", "4").stdout
    assert "B <= certificate" in said
    assert "UNPROVEN" in said


def test_mutate_prints_the_kill_matrix():
    done = memopt("mutate", "--only", "ogd x", "--json")
    assert done.exit_code == 0
    fields = json.loads(done.stdout)
    assert fields["survivors"] == []
    assert len(fields["mutants"]) == 7
    assert all(m["by_ratio"] and m["by_link"] for m in fields["mutants"])
    assert "0 survive" in memopt("mutate", "--only", "ogd x2").stdout


def test_a_surviving_mutant_is_an_error(monkeypatch):
    from memopt_ref.theory import mutants

    rule = mutants.Mutant(
        "innocent",
        "nothing wrong",
        get("ogd.tuned"),
        mutants.own(),
        games.bang_bang,
        20,
        1.0,
        None,
        mutants.signs,
        "B <= C",
    )
    monkeypatch.setattr(mutants, "table", lambda: [rule])
    done = memopt("mutate")
    assert done.exit_code == 1
    assert "innocent" in done.stdout


def test_an_interval_that_is_too_wide_leaves_a_bound_unproven():
    game = games.logistic(2)
    bound = ogd.Constant(eta=1e-9)

    class Blunt(ogd.Constant):
        def chain(self, trace, u):
            found = trace.hindsight()
            trace._hindsight = type(found)(found.u, found.value, 1e9)
            return super().chain(trace, u)

    sure = verify.verify(bound, game, 5)
    assert sure.verdict == "VACUOUS"
    record = verify.verify(Blunt(eta=0.5), game, 5)
    assert (record.verdict, record.undecided) == ("UNPROVEN", True)
    assert record.broken[0].startswith("comparator:")
    assert suites.exit_code([record]) == 3
    assert suites.exit_code([record, verify.verify(get("amsgrad.abel"), games.constant(), 16)]) == 1
