"""The benchmark history is read as asv writes it, and shown on one page that needs nothing beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from memopt_ref.bench import dashboard, history
from memopt_ref.cli import main
from memopt_ref.errors import FileFormatError

ROOT = Path(__file__).parent.parent
COLUMNS = ["result", "params", "version"]


def results(folder: Path, ratios=(2.5, 2.4, 2.2)) -> Path:
    """A history of commits in which Adam becomes faster; SM3 was skipped at the first."""
    place = folder / "results" / "lab"
    place.mkdir(parents=True)
    (place / "machine.json").write_text(
        json.dumps({"machine": "lab", "cpu": "a <b>", "num_cpu": "2", "version": 1})
    )
    rules = ["'Adam'", "'SM3'"]
    for k, ratio in enumerate(ratios):
        found = {
            dashboard.LIMIT: [[ratio, None if k == 0 else 1.3], [rules], "1"],
            dashboard.STATE: [[8.0, 0.04], [rules], "1"],
            dashboard.MOVED: [[28.0, 12.1], [rules], "1"],
            dashboard.NUMPY: [[0.1, 0.2, float("nan"), 0.4], [rules, ["4096", "1048576"]], "1"],
            "times.StartUp.track_dispatch": [[1e-5], [], "1"],
            "values.broken": [None, [], "1"],
        }
        record = {
            "commit_hash": f"{k}" * 40,
            "env_name": "virtualenv-py3.11",
            "date": 1_700_000_000_000 - 86_400_000 * k,
            "result_columns": COLUMNS,
            "results": found,
        }
        (place / f"{k}.json").write_text(json.dumps(record))
    return folder / "results"


def test_commits_come_by_date_and_what_was_skipped_is_not_there(tmp_path):
    (lab,) = history.read(results(tmp_path))
    assert [c.hash[0] for c in lab.commits] == ["2", "1", "0"]
    assert lab.series(dashboard.LIMIT, "Adam") == ((1, 2.2), (2, 2.4), (3, 2.5))
    assert lab.series(dashboard.LIMIT, "SM3") == ((1, 1.3), (2, 1.3))
    assert lab.commits[0].value(dashboard.NUMPY, "Adam", 2**20) == 0.2
    assert lab.commits[0].value(dashboard.NUMPY, "SM3", 4096) is None
    assert lab.parameters(dashboard.LIMIT) == (("Adam",), ("SM3",))


def test_the_page_tells_what_the_history_holds_and_needs_nothing_beside_it(tmp_path):
    page = dashboard.html(history.read(results(tmp_path)))
    assert "a &lt;b&gt;" in page
    assert "<td>Adam</td>" in page
    # 28 bytes in 2.5 times the time of 12
    assert "93 %" in page
    assert "+14 %" in page
    assert not re.search(r"https?://|src=|@import|url\((?!#)", page)
    latest = json.loads(page.split('id="record">')[1].split("</script>")[0])["histories"][0]["latest"]
    assert latest["Adam"] == {"of_limit": 2.5, "of_numpy": 0.2, "state": 8.0}


def test_a_wrong_order_of_parameters_would_be_noticed(tmp_path):
    folder = results(tmp_path)
    file = folder / "lab" / "0.json"
    record = json.loads(file.read_text())
    record["results"][dashboard.LIMIT][1] = [["'SM3'", "'Adam'"]]
    file.write_text(json.dumps(record))
    (lab,) = history.read(folder)
    assert lab.series(dashboard.LIMIT, "SM3")[-1] == (3, 2.5)


def test_the_command_writes_the_page_and_finds_the_main_job_beside_the_results(tmp_path):
    folder = results(tmp_path)
    optimizer = {"key": "SM3", "state_per_parameter": 0.2, "test_perplexity": 70.0, "spread": 1.0}
    job = {"steps": 800, "seeds": 3, "model": {"parameters": 5}, "optimizers": [optimizer]}
    (tmp_path / "main_job.json").write_text(json.dumps(job))
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["dashboard", "--results", str(folder), "-o", str(page), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["machines"] == {"lab": 3}
    assert "State against perplexity" in page.read_text()
    (tmp_path / "main_job.json").write_text("{}")
    done = CliRunner().invoke(main, ["dashboard", "--results", str(folder), "-o", str(page)])
    assert done.exit_code == 2
    assert "memopt compare --json" in done.output


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"result_columns": [], "results": {"a": 3}}'])
def test_a_file_of_results_that_is_none_is_refused(text, tmp_path):
    folder = results(tmp_path)
    (folder / "lab" / "0.json").write_text(text)
    with pytest.raises(FileFormatError, match="Record the run again"):
        history.read(folder)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="no results"):
        history.read(tmp_path)


def test_the_committed_history_is_read_and_holds_no_path_of_a_machine():
    folder = ROOT / "asv_bench" / "results"
    found = history.read(folder)
    assert sum(len(h.commits) for h in found) >= 3
    for path in folder.rglob("*.json"):
        if path.name != "benchmarks.json":
            assert not re.search(r"/(home|root|work|tmp|Users)\b", path.read_text()), path.name
    page = dashboard.html(found, json.loads((folder.parent / "main_job.json").read_text()))
    assert not re.search(r"https?://", page)
