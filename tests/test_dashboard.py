"""The benchmark history is read as asv writes it, and shown on one page that needs nothing beside it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from memopt_ref.bench import dashboard, dashboard_plots, dashboard_tables, history, tracks_cuda
from memopt_ref.cli import main
from memopt_ref.errors import FileFormatError
from memopt_ref.plots import Series

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
            dashboard_tables.MOVED: [[28.0, 12.1], [rules], "1"],
            dashboard.NUMPY: [[0.1, 0.2, float("nan"), 0.4], [rules, ["4096", "1048576"]], "1"],
            dashboard_tables.REGRET: [[0.5], [["'SM3'"]], "1"],
            dashboard_tables.REGISTERS: [[40, 30 + k], [["'adam_packed'", "'sm3'"]], "1"],
            dashboard_tables.SPILLED: [[8 * (k == 0), 0], [["'adam_packed'", "'sm3'"]], "1"],
            dashboard_tables.CODE: [[9728, 16640], [["'adam_packed'", "'sm3'"]], "1"],
            dashboard_tables.PEERS: [[0.9, None], [["'torch'"], rules], "1"],
            dashboard_tables.BACKENDS: [
                [0.5, 0.2, 0.1, None, None, None],
                [["'numba'"], rules, list(map(str, dashboard_tables.SIZES))],
                "1",
            ],
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


def cells(page: str, name: str) -> list[str]:
    """What stands behind a name in the first table row that begins with it."""
    row = page.split(f"<td>{name}</td>")[1].split("</tr>")[0]
    return re.findall(r"<td[^>]*>([^<]*)</td>", row)


class _Addresses(HTMLParser):
    """Everything on a page that a browser would fetch or go to, less places on the page itself."""

    FROM = frozenset({"href", "xlink:href", "src", "srcset", "data", "action", "poster", "background"})

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [v for name, v in attrs if name in self.FROM and not (v or "").startswith("#")]
        self._look(" ".join(v or "" for _, v in attrs))

    def handle_data(self, text):
        self._look(text)

    def _look(self, text):
        self.found += re.findall(r"@import[^;]*|url\((?!#)[^)]*\)|(?:https?:|wss?:)?//[\w.]+", text)


def addresses(page: str) -> list[str]:
    parser = _Addresses()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize(
    "added",
    [
        '<script src="plot.js"></script>',
        '<link rel="stylesheet" href="style.css">',
        '<img src="//cdn.example.org/x.png">',
        '<style>@import "style.css";</style>',
        "<style>body { background: url(paper.png) }</style>",
        '<p style="background: url(https://example.org/x.png)">x</p>',
        "<script>fetch('https://example.org')</script>",
    ],
)
def test_an_address_beside_the_page_would_be_noticed(added, tmp_path):
    page = dashboard.html(history.read(results(tmp_path)))
    assert addresses(page.replace("</body>", added + "</body>"))


def test_the_page_tells_what_the_history_holds_and_needs_nothing_beside_it(tmp_path):
    page = dashboard.html(history.read(results(tmp_path)))
    assert "a &lt;b&gt;" in page
    assert "<td>Adam</td>" in page
    # 28 bytes in 2.5 times the time of 12
    assert "93 %" in page
    assert "+14 %" in page
    assert page.count("<summary>") == 2 + 2
    assert cells(page, "adam_packed") == ["40", "8", "9,728", "+0 %", "+0 %"]
    assert cells(page, "sm3") == ["30", "0", "16,640", "-6 %", "+0 %"]
    assert "2 kernels, 1 spill" in page
    assert addresses(page) == []
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
    assert addresses(page) == []


def test_one_commit_alone_is_seen_and_commits_are_counted_in_whole_numbers():
    drawn = dashboard_plots.trend([Series("SGD", 1, ((1.0, 2.0),))], "title", "x", commits=1)
    assert drawn.count("<circle") == 1
    many = dashboard_plots.trend([Series("a", 1, ((1.0, 2.0), (25.0, 3.0)))], "title", "x", commits=25)
    ticks = re.findall(r'<text class="label"[^>]*text-anchor="middle">(\d+)</text>', many)
    assert ticks == [str(k) for k in range(1, 26, 3)]


@pytest.mark.parametrize("log", [True, False])
def test_a_drawing_stays_within_its_frame_and_labels_do_not_touch(log):
    series = [Series("of a long name", k, ((1.0, 1.0), (3.0, 2.0 + k / 100))) for k in range(9)]
    drawn = dashboard_plots.trend(series, "title", "x", commits=3, log=log, level=1.0)
    labels = re.findall(r'<text class="fill s\d" x="([\d.]+)" y="([\d.]+)"', drawn)
    heights = sorted(float(y) for _, y in labels)
    assert len(heights) == 9
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12
    assert 0 < heights[0] < heights[-1] < dashboard_plots.HEIGHT
    # A letter is nowhere wider than 0.7 of its height of 12.
    assert all(float(x) + 0.7 * 12 * len("of a long name") < dashboard_plots.WIDTH for x, _ in labels)


# What the CUDA kernels cost


def table_of(registers: int, stores: int = 0, compiler: str = "12.9") -> dict:
    columns = ["registers", "stack", "spill_stores", "spill_loads", "shared", "code"]
    devices = {"80": [20, 0, 0, 0, 0, 512], "90": [registers, 0, stores, 4 * bool(stores), 0, 384]}
    forms = {"sm3 float32": devices, "sm3 float64": {"90": [99, 0, 9, 9, 0, 9999]}}
    return {"columns": columns, "costs": {compiler: forms}}


def test_the_most_of_the_devices_in_float32_by_the_newest_compiler_counts():
    table = table_of(30, stores=8)
    table["costs"]["12.10"] = table_of(24)["costs"]["12.9"]
    assert tracks_cuda.most(json.dumps(table)) == {"sm3": (24, 0, 512)}
    del table["costs"]["12.10"]
    assert tracks_cuda.most(json.dumps(table)) == {"sm3": (30, 12, 512)}
    assert tracks_cuda.most("") == {}


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"costs": {"12.9": {"sm3 float32": {"90": [1]}}}, "columns": []}']
)
def test_a_table_of_costs_that_is_none_is_refused(text):
    with pytest.raises(FileFormatError, match=r"tests\.cupy_gpu\.gate"):
        tracks_cuda.most(text)


def test_the_costs_of_a_commit_are_those_of_its_own_table(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=x", "-c", "user.email=x", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "before there were kernels")
    path = tmp_path / tracks_cuda.TABLE
    path.parent.mkdir(parents=True)
    commits = [git("rev-parse", "HEAD")]
    for registers in (30, 40):
        path.write_text(json.dumps(table_of(registers)))
        git("add", ".")
        git("commit", "-q", "-m", "kernels")
        commits.append(git("rev-parse", "HEAD"))
    path.write_text(json.dumps(table_of(50)))
    found = [tracks_cuda.most(tracks_cuda.committed(tmp_path, commit)) for commit in (*commits, None)]
    assert [costs.get("sm3", (0,))[0] for costs in found] == [0, 30, 40, 50]


def test_the_committed_table_gives_every_kernel_a_cost():
    found = tracks_cuda.most(tracks_cuda.committed(ROOT))
    assert {"adam_packed", "sm3", "adafactor_step"} <= set(found)
    assert all(cost.registers > 0 and cost.spilled == 0 and cost.code > 0 for cost in found.values())
