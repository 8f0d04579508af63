"""Another library's optimizer as a black box."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from memopt_ref.cli import main
from memopt_ref.cli.verify_foreign import arguments
from memopt_ref.errors import HyperparameterError
from memopt_ref.rules.sgd import SGD
from memopt_ref.theory import foreign, games
from memopt_ref.theory.bounds import get
from memopt_ref.theory.foreign import Foreign
from memopt_ref.theory.geometry import Box
from memopt_ref.theory.play import play
from memopt_ref.theory.verify import VIOLATED, verify

LIBRARY = "tests.theory.plain_library"


def memopt(*words):
    return CliRunner().invoke(main, ["verify", "foreign", *words])


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (f"{LIBRARY}.Descent", {"lr": 0.125}),
        (f"{LIBRARY}.descent", {"learning_rate": 0.125}),
        ("memopt_ref.SGD", {"learning_rate": 0.125}),
    ],
)
@pytest.mark.parametrize("make", [lambda: games.zigzag_run(56, 8), lambda: games.rademacher((3,))])
def test_each_interface_takes_the_steps_of_gradient_descent_and_is_clipped(path, options, make):
    game = make()
    mine = play(SGD(learning_rate=0.125), game, 64, keep=True)
    theirs = play(Foreign(path, options), game, 64, keep=True)
    assert np.array_equal(mine.x, theirs.x)
    assert np.max(np.abs(theirs.x)) <= 1


def test_the_clip_is_written_back():
    # Without it the box's own copy of w would walk to -50 and not return in time.
    game = games.sequence([1.0] * 50 + [-1.0] * 50)
    trace = play(Foreign(f"{LIBRARY}.Descent", {"lr": 1.0}), game, 100, keep=True)
    assert [float(x[0]) for x in trace.x[49:53]] == [-1.0, -1.0, 0.0, 1.0]


def test_only_the_ends_of_a_bound_are_seen():
    record = verify(
        get("ogd.tuned"), games.zigzag_run(56, 8), 64, Foreign(f"{LIBRARY}.Descent", {"lr": 0.125})
    )
    assert [name for name, _ in record.links] == ["R_lin", "C"]
    assert (record.verdict, record.ratio) == ("TIGHT", 1.0)


def test_a_wrong_rate_is_violated():
    player = Foreign(f"{LIBRARY}.Descent", {"lr": 0.5})
    record = verify(get("ogd.tuned"), games.zigzag_run(62, 2), 64, player)
    assert record.verdict == VIOLATED
    assert record.ratio == 2.125


def test_each_hearing_has_the_bounds_whose_conditions_the_game_meets():
    found = {h.game.name: h for h in foreign.hearings(Foreign(f"{LIBRARY}.Descent", {"lr": 0.1}), 60)}
    assert len(found) == len(foreign.GAMES)
    for heard in found.values():
        assert isinstance(heard.game.domain, Box)
        assert all(math.isfinite(record.value) for record in heard.records)
        assert all(record.measured[0] == pytest.approx(heard.regret, abs=1e-9) for record in heard.records)
        assert not any(get(record.bound).known_false for record in heard.records)
    names = {record.bound for record in found["bang_bang"].records}
    assert names >= {"ogd.tuned", "adagrad.mirror", "amsgrad.constant", "sm3.I"}
    assert "ogd.sc" not in names
    assert "ogd.sc" in {record.bound for record in found["opposite_targets"].records}


def test_a_replay_shows_what_was_played():
    game = games.bang_bang((2,))
    seen = play(SGD(learning_rate=0.3), game, 40, keep=True)
    bound = get("adagrad.mirror")
    held = foreign.against(bound, game, 40, seen)
    direct = verify(bound, game, 40, Foreign("memopt_ref.SGD", {"learning_rate": 0.3}))
    assert (held.measured, held.value, held.verdict) == (direct.measured, direct.value, direct.verdict)


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("no_such_library.optim.Adam", {}, "pip install no_such_library"),
        ("sklearnx", {}, "dotted name"),
        (f"{LIBRARY}.Ascent", {}, "a member of tests.theory.plain_library"),
        (
            f"{LIBRARY}.Descent",
            {"rate": 1},
            "arguments of tests.theory.plain_library.Descent(params, lr, decay)",
        ),
        (f"{LIBRARY}.Descent", {"lr": -1}, "lr must be positive"),
        (f"{LIBRARY}.nothing", {}, "without init() and update()"),
        ("memopt_ref.SGD", {"rate": 1}, "arguments of memopt_ref.SGD"),
    ],
)
def test_what_cannot_be_made_says_why(path, options, said):
    with pytest.raises(HyperparameterError) as raised:
        play(Foreign(path, options), games.bang_bang(), 2)
    assert said in str(raised.value)


def test_options_of_the_command_line_are_the_factorys_arguments():
    words = ["--lr", "0.1", "--betas", "0.9,0.99", "--weight-decay=0.5", "--amsgrad", "--mode", "l2"]
    assert arguments(words) == {
        "lr": 0.1,
        "betas": (0.9, 0.99),
        "weight_decay": 0.5,
        "amsgrad": True,
        "mode": "l2",
    }
    for words in (["0.1"], ["--lr", "1", "2"], ["--"]):
        with pytest.raises(HyperparameterError):
            arguments(words)


def test_the_command_and_its_exit_codes():
    done = memopt(f"{LIBRARY}.Descent", "--lr", "0.5", "-T", "25", "--json")
    assert done.exit_code == 0, done.output
    fields = json.loads(done.stdout)
    assert fields["player"] == f"{LIBRARY}.Descent(lr=0.5)"
    assert {g["game"] for g in fields["games"]} >= {"reddi3(3)", "reddi101", "bang_bang"}
    claimed = memopt(f"{LIBRARY}.Descent", "--lr", "0.5", "-T", "25", "--claims", "ogd.tuned")
    assert claimed.exit_code == 1
    assert "ogd.tuned is violated on" in claimed.stdout
    kept = memopt(f"{LIBRARY}.Descent", "--lr", "0.5", "-T", "25", "--claims", "ogd.zinkevich")
    assert kept.exit_code == 0
    assert memopt("no_such_library.Adam").exit_code == 2
    assert memopt(f"{LIBRARY}.Descent", "--claims", "experts.hedge", "-T", "4").exit_code == 2


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "options", "own"),
    [
        ("torch.optim.Adam", {"lr": 0.1}, {"learning_rate": 0.1}),
        (
            "torch.optim.Adam",
            {"lr": 0.1, "betas": (0.0, 0.1)},
            {"learning_rate": 0.1, "beta1": 0.0, "beta2": 0.1},
        ),
        ("optax.adam", {"learning_rate": 0.1}, {"learning_rate": 0.1}),
    ],
)
def test_adam_of_other_libraries_has_the_regret_of_ours(path, options, own):
    pytest.importorskip(path.partition(".")[0])
    for game, T in ((games.reddi3(), 300), (games.bang_bang((3,)), 100), (games.logistic(), 60)):
        theirs = play(Foreign(path, options), game, T).regret()[0]
        ours = play(Foreign("memopt_ref.Adam", own), game, T).regret()[0]
        # Two orders of the same float64 operations, far from a sign change of a game that reacts.
        assert theirs == pytest.approx(ours, rel=1e-9, abs=1e-9)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_torchs_sgd_attains_the_bound_and_adam_fails_on_reddis_game():
    pytest.importorskip("torch")
    tight = verify(get("ogd.tuned"), games.zigzag_run(56, 8), 64, Foreign("torch.optim.SGD", {"lr": 0.125}))
    assert (tight.verdict, tight.ratio) == ("TIGHT", 1.0)
    adam = Foreign("torch.optim.Adam", {"lr": 0.1, "betas": (0.0, 0.1)})
    assert verify(get("ogd.tuned"), games.reddi3(), 2000, adam).ratio > 10
