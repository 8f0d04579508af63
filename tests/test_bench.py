"""memopt bench: contestants, ratios, a machine that was busy; the gate that a slower kernel does not pass."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref.backends import timing
from memopt_ref.bench import gate, machine, measure, peers, rows, tracks
from memopt_ref.cli import main
from memopt_ref.errors import FileFormatError

needs_numba = pytest.mark.skipif(
    not {s.name: s.available for s in mo.backends.status()}["numba"], reason="the limit needs numba"
)


def called(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


# The stop-watch and the machine


def test_contestants_take_turns_and_the_least_of_the_rounds_counts():
    now, calls = [0.0], []
    costs = {"limit": iter([9, 2.0, 4.0, 1.0]), "step": iter([9, 6.0, 3.0, 8.0])}

    def contestant(name):
        def run():
            calls.append(name)
            now[0] += next(costs[name])

        return run

    found = timing.interleaved({n: contestant(n) for n in costs}, "limit", rounds=3, clock=lambda: now[0])
    assert calls == ["limit", "step", "limit", "step", "step", "limit", "limit", "step"]
    assert found["step"] == (3.0, 3.0, 3.0)
    assert found["limit"] == (1.0, 1.0, 1.0)


def test_a_round_with_company_is_played_again_and_does_not_count():
    now, costs = [0.0], {"limit": itertools.repeat(1.0), "step": iter([9, 50, 3, 4])}
    calm = iter([True, False, True, True])

    def contestant(name):
        def run():
            now[0] += next(costs[name])

        return run

    steps = {name: contestant(name) for name in costs}
    found = timing.interleaved(steps, "limit", 2, lambda: now[0], lambda: next(calm))
    assert found["step"].seconds == 3
    assert found["step"].median_ratio == 3.5


def test_rounds_that_all_had_company_are_counted_rather_than_none():
    calls = []
    found = timing.interleaved({"limit": lambda: calls.append(1)}, "limit", 3, quiet=lambda: False)
    assert len(calls) == 1 + 6
    assert found["limit"].ratio == 1.0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how busy it is")
def test_a_busy_process_beside_this_one_is_company():
    quiet = machine.Quiet()
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.8)
        assert not quiet()
        assert quiet.disturbed == quiet.rounds == 1
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("cores", "seconds", "calm"), [(0.04, 9, True), (0.06, 9, False), (1.0, 0.019, True)]
)
def test_company_is_a_twentieth_of_a_core_and_more_than_a_few_ticks(cores, seconds, calm):
    clock = iter([0.0, seconds])
    share = cores / machine.processors()
    assert machine.Quiet(lambda: lambda: share, lambda: next(clock))() is calm


def test_what_is_said_of_the_machine_names_no_host_and_no_path():
    about = machine.describe()
    assert {"processor", "cores", "system", "python", "numpy"} <= set(about)
    assert not any("/" in str(value) for value in about.values())


# Rows


def test_every_row_has_a_peer_that_is_known_and_marks_in_order():
    for row in rows.rows():
        assert row.bar >= row.goal > 0
        assert row.against in ("limit", *peers.PEERS)
    assert len({row.name for row in rows.rows()}) == len(rows.rows())


@needs_numba
@pytest.mark.parametrize("name", ["Adam", "SM3 narrow", "Adam bfloat16"])
def test_a_row_is_measured_against_the_limit(name):
    (row,) = (row for row in rows.rows(2**14) if row.name == name)
    found = measure.measure(row, rounds=2)
    assert set(found.timings) == {measure.LIMIT, measure.OURS, measure.CHECKED}
    assert found.of_limit(measure.LIMIT) == 1.0
    assert found.ratio == found.timings[measure.OURS].seconds / found.timings[measure.LIMIT].seconds
    assert found.verdict in ("goal", "bar", "over")


def test_a_verdict_follows_from_the_ratio_and_is_not_given_without_the_peer():
    row = rows.Row("x", mo.Adam(), ((4,),), bar=0.5, goal=0.4, against="torch")

    def result(ours, against="torch"):
        seconds = {measure.OURS: ours, "torch": 1.0, measure.LIMIT: 2.0}
        timings = {name: timing.Timing(s, s / 2.0, s / 2.0) for name, s in seconds.items()}
        return measure.Result(row, timings, against, "kernel", 1, 0)

    assert [result(s).verdict for s in (0.39, 0.45, 0.6)] == ["goal", "bar", "over"]
    assert result(0.1, against=measure.LIMIT).verdict == "-"


@needs_numba
def test_the_command_prints_a_table_and_json():
    shown = called("bench", "--row", "SGD", "--entries", "4096", "--rounds", "1")
    assert shown.exit_code == 0
    assert "SGD" in shown.output
    assert "checked" in shown.output
    told = json.loads(called("bench", "--row", "SGD", "--entries", "4096", "--rounds", "1", "--json").stdout)
    assert [row["name"] for row in told["rows"]] == ["SGD"]
    assert set(told["rows"][0]["contestants"]) == {"limit", "memopt", "memopt, checked"}


def test_a_peer_that_is_unknown_or_not_there_is_refused_before_anything_is_timed(monkeypatch):
    assert "none of torch" in called("bench", "--against", "tensorflow").output
    monkeypatch.setattr(peers, "installed", lambda name: False)
    answer = called("bench", "--against", "torch")
    assert answer.exit_code == 2
    assert "torch is not installed" in answer.output


# Figures that every machine reproduces


@pytest.mark.parametrize("name", list(tracks.RULES))
def test_state_is_what_was_planned(name):
    made = tracks.rule(name)
    assert tracks.planner_difference(made, (24, 16)) == 0
    assert tracks.least_bytes_moved(made, (24, 16)) == 12 + 2 * tracks.state_bytes_per_parameter(
        made, (24, 16)
    )


def test_every_rule_has_a_row_in_the_history():
    rules = {n for n in mo.__all__ if isinstance(x := getattr(mo, n), type) and issubclass(x, mo.Rule)}
    # The form of MicroAdam that the theorems are about; nobody trains with it.
    assert rules - {"Rule", "AnalysedMicroAdam"} == {kind for kind, _ in tracks.RULES.values()}


@pytest.mark.parametrize("entries", [2**12, 2**16, 2**20])
def test_a_shape_has_as_many_entries_as_were_asked_for_or_as_the_rule_is_worth(entries):
    for name in tracks.RULES:
        rows, columns = tracks.shape(name, entries)
        assert rows * columns == min(entries, tracks.MATRIX.get(name, entries))


def test_what_a_step_borrows_is_seen():
    # Element-wise NumPy makes whole temporaries; there is no rule that needs none.
    assert tracks.borrowed_bytes(mo.Adam(), (256, 64), "numpy") >= 256 * 64 * 4


def test_threads_that_come_together_by_chance_do_not_count(monkeypatch):
    kept, sizes = [], iter([1, 1, 9 * 2**20, 2**20, 3 * 2**20])
    monkeypatch.setattr(tracks, "step", lambda *arguments: lambda: kept.append(len(bytes(next(sizes)))))
    assert 2**20 <= tracks.borrowed_bytes(mo.Adam(), (4,), times=3) < 1.01 * 2**20


def test_the_worst_ratio_of_a_rule_is_of_regret_bounds_that_hold(monkeypatch):
    from memopt_ref.theory import suites, verify

    def record(bound, player, ratio, verdict=verify.HOLDS, link="R"):
        return verify.Record(bound, "game", player, 9, (1,), verdict, ratio=ratio, links=[(link, 1.0)])

    played = [
        *(record("sm3.I", "SM3", 0.3), record("sm3.I", "SM3", 0.5), record("sm3.II", "SM3", 0.4)),
        *(record("adam.thm41", "Adam", 3.0, verify.VIOLATED), record("sm3.II", "SM3", float("nan"))),
        *(record("sketch", "SGD", 1.0, verify.TIGHT, link="error"), record("ogd", "SGD", -0.2)),
    ]
    monkeypatch.setattr(suites, "run", lambda entries: iter(played))
    assert tracks.tightness() == {
        "theorem": {"ogd": -0.2, "sketch": 1.0, "sm3.I": 0.5, "sm3.II": 0.4},
        "rule": {"SGD": -0.2, "SM3": 0.5},
    }


# The gate

TABLE = {
    "rows": {
        "SGD": {"limit": {"ratio": 1.0, "margin": 1.5}, "numpy": {"ratio": 0.2, "margin": 2.0}},
        "Adam": {"limit": {"ratio": 3.0, "margin": 1.5}, "numpy": {"ratio": 0.1, "margin": 2.0}},
    }
}


def test_a_row_that_lost_is_measured_again_and_only_that_one():
    asked = []

    def measured(names):
        asked.append(list(names))
        slow = 9.0 if len(asked) == 1 else 3.1
        places = {"SGD": gate.Place(1.1, 0.3), "Adam": gate.Place(slow, 0.15)}
        return {name: places[name] for name in names}

    lost, best = gate.check(TABLE, measured)
    assert lost == []
    assert asked == [["SGD", "Adam"], ["Adam"]]
    assert best["Adam"] == (3.1, 0.15)


@pytest.mark.parametrize("place", [gate.Place(4.6, 0.1), gate.Place(3.0, 0.21)])
def test_a_row_that_stays_slow_has_lost_its_place(place):
    lost, _ = gate.check(
        TABLE, lambda names: {n: place if n == "Adam" else gate.Place(1, 0.2) for n in names}
    )
    (row,) = lost
    assert row.name == "Adam"
    assert str(row).startswith("Adam: ")
    assert row.ratio > row.allowed


def test_the_margin_is_twice_the_spread_that_was_seen_and_never_narrow():
    assert gate._margin([1.0, 1.4, 1.2]) == pytest.approx(1.8)
    assert gate._margin([1.0, 1.001]) == gate.LEAST_MARGIN


@needs_numba
def test_a_kernel_that_was_slowed_down_on_purpose_loses_its_place(monkeypatch):
    names = ["Adam"]
    honest = gate.measure(names, rounds=15)
    rows_ = {
        name: {field: {"ratio": getattr(p, field), "margin": 1.6} for field in gate.Place._fields}
        for name, p in honest.items()
    }
    assert gate.check({"rows": rows_}, lambda n: gate.measure(n, rounds=15))[0] == []
    whole = gate.select

    class Slow:
        def __init__(self, chosen):
            self.chosen = chosen

        def step(self, rule, w, g, state):
            for _ in range(3):
                self.chosen.step(rule, w, g, state)

    monkeypatch.setattr(
        gate,
        "select",
        lambda *a, backend: (
            Slow(whole(*a, backend=backend)) if backend == "auto" else whole(*a, backend=backend)
        ),
    )
    lost, _ = gate.check({"rows": rows_}, lambda n: gate.measure(n, rounds=15))
    assert {row.name for row in lost} == {"Adam"}
    assert "limit" in {row.against for row in lost}


def test_the_committed_table_is_one():
    table = gate.read(Path(__file__).parent.parent / "asv_bench" / "gate.json")
    assert set(table["rows"]) == set(gate.ROWS)
    assert all(mark["margin"] >= gate.LEAST_MARGIN for row in table["rows"].values() for mark in row.values())


@pytest.mark.parametrize("text", ["", "[]", '{"rows": {"SGD": {}}}', '{"rows": 3}'])
def test_a_table_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(FileFormatError, match="a table of ratios"):
        gate.read(tmp_path / "gate.json")
