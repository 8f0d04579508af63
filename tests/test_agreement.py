"""Two runs on one commit agree within margins that are stated, and the command that holds them together."""

from __future__ import annotations

import json
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from memopt_ref.bench import agreement, gate

ROOT = Path(__file__).parent.parent
GATE = {
    "rows": {
        "SGD": {"limit": {"ratio": 1.0, "margin": 1.3}, "numpy": {"ratio": 0.2, "margin": 4.0}},
        "SM3": {"limit": {"ratio": 1.0, "margin": 1.6}, "numpy": {"ratio": 0.2, "margin": 4.0}},
    }
}
STATE = ("values.State.track_state_bytes_per_parameter", ("SM3",))
BORROWED = ("values.Borrowed.track_borrowed_bytes", ("SM3",))
LIMIT = ("ratios.AgainstLimit.track_ratio", ("SGD",))
PEER = ("ratios.AgainstPeers.track_ratio", ("torch", "SM3"))
ROWS = ("ratios.Rows.track_ratio", ("SGD",))
EF21 = ("ratios.AgainstLimit.track_ratio", ("EF21",))
SKETCH = ("ratios.AgainstLimit.track_ratio", ("CountSketchAdam",))
TIME = ("times.StartUp.timeraw_import", ())
#: Of every figure, by how much two runs may differ.
FACTORS = [
    (STATE, 1.0),
    (BORROWED, gate.LEAST_MARGIN),
    (LIMIT, 1.3),
    (PEER, 1.6),
    (ROWS, 4.0),
    (EF21, 1.6),
    (SKETCH, 2.2),
    (TIME, 2.0),
]


@pytest.mark.parametrize(("key", "factor"), FACTORS)
def test_a_figure_agrees_up_to_its_margin_and_no_further(key, factor):
    assert agreement.margin(key, GATE) == factor
    for other in (2.0 * factor * 0.999, 2.0 / factor * 1.001) if factor > 1 else (2.0,):
        assert agreement.apart({key: 2.0}, {key: other}, GATE) == []
    for other in (2.0 * factor * 1.001, 2.0 / factor * 0.999):
        assert agreement.apart({key: 2.0}, {key: other}, GATE) == [(*key, 2.0, other, factor)]


def test_a_figure_that_the_second_run_lacks_is_apart():
    (row,) = agreement.apart({STATE: 4.0, LIMIT: 1.0}, {LIMIT: 1.1}, GATE)
    assert row.second is None
    assert str(row) == f"{STATE[0]}(SM3): 4, then none"


def test_figures_without_a_sign_of_their_own_have_to_be_the_same():
    assert agreement.apart({LIMIT: 0.0}, {LIMIT: 0.0}, GATE) == []
    assert len(agreement.apart({LIMIT: 0.0}, {LIMIT: 1e-9}, GATE)) == 1
    assert len(agreement.apart({LIMIT: -1.0}, {LIMIT: 1.0}, GATE)) == 1


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """``record.py`` in a folder of its own, and an asv that answers with what it is given, run after run."""
    for name in ("record.py", "asv.conf.json", "gate.json"):
        shutil.copy(ROOT / "asv_bench" / name, tmp_path)
    spec = spec_from_file_location("record_of_the_test", tmp_path / "record.py")
    record = module_from_spec(spec)
    spec.loader.exec_module(record)
    asked = []

    def run(figures, folder=tmp_path / "results"):
        place = folder / "lab"
        place.mkdir(parents=True, exist_ok=True)
        (place / "machine.json").write_text(json.dumps({"machine": "lab", "version": 1}))
        found = {name: [[value], [[f"'{p}'"] for p in of], "1"] for (name, of), value in figures.items()}
        record_ = {"commit_hash": "c" * 40, "env_name": "e", "date": 0, "results": found}
        record_["result_columns"] = ["result", "params", "version"]
        (place / "c.json").write_text(json.dumps(record_))

    def answers(*runs):
        left = iter(runs)

        def asv(*arguments):
            settings = Path(arguments[arguments.index("--config") + 1])
            asked.append(arguments[arguments.index("--bench") + 1])
            assert json.loads(settings.read_text())["benchmark_dir"] == str(tmp_path / "benchmarks")
            run(next(left), settings.parent / "results")
            return 0

        monkeypatch.setattr(record, "asv", asv)
        monkeypatch.setattr(record, "git", lambda *arguments: "c" * 40)

    record.run, record.answers, record.asked = run, answers, asked
    return record


def test_what_differs_is_measured_again_before_it_is_believed(recorder, capsys):
    recorder.run({STATE: 4.0, LIMIT: 1.0})
    recorder.answers({STATE: 4.0, LIMIT: 9.0}, {LIMIT: 1.1})
    assert recorder.agree("lab", ["HEAD"], ".") == 0
    assert recorder.asked == [".", r"^ratios\.AgainstLimit\.track_ratio(\(|$)"]
    assert "HEAD: 0 figures of two runs do not agree" in capsys.readouterr().out


def test_what_stays_apart_is_told_and_nothing_is_recorded(recorder, capsys):
    recorder.run({STATE: 4.0, LIMIT: 1.0})
    before = (recorder.HERE / "results" / "lab" / "c.json").read_bytes()
    recorder.answers({STATE: 4.5, LIMIT: 1.0}, *2 * [{STATE: 4.5}])
    assert recorder.agree("lab", ["HEAD"], ".") == 1
    assert f"{STATE[0]}(SM3): 4, then 4.5" in capsys.readouterr().out
    assert (recorder.HERE / "results" / "lab" / "c.json").read_bytes() == before


def test_a_benchmark_that_is_gone_from_the_second_run_is_apart_unless_it_was_not_asked_for(recorder):
    recorder.run({STATE: 4.0, LIMIT: 1.0})
    recorder.answers(*3 * [{LIMIT: 1.0}])
    assert recorder.agree("lab", ["HEAD"], ".") == 1
    recorder.answers({LIMIT: 1.0})
    assert recorder.agree("lab", ["HEAD"], "ratios") == 0


def test_a_commit_of_which_nothing_is_recorded_does_not_agree(recorder, capsys):
    recorder.answers({LIMIT: 1.0})
    assert recorder.agree("lab", ["HEAD"], ".") == 1
    assert "nothing is recorded" in capsys.readouterr().err


def test_a_busy_machine_and_a_dirty_tree_are_refused(recorder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["record.py", "lab", "--again"])
    monkeypatch.setattr(recorder, "git", lambda *arguments: " M file.py")
    assert recorder.main() == 2
    assert "uncommitted" in capsys.readouterr().err
    monkeypatch.setattr(recorder, "git", lambda *arguments: "")
    monkeypatch.setattr(recorder, "busy", lambda: True)
    assert recorder.main() == 2
    assert "something else is running" in capsys.readouterr().err
