"""The main job: runs, their summary, the page and the command."""

import json
import math
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from multiprocessing import get_context

import numpy as np
import pytest
from click.testing import CliRunner

import memopt_ref as mo
from memopt_ref import plots
from memopt_ref.cli import main
from memopt_ref.cli.compare import write
from memopt_ref.demo import page, report
from memopt_ref.demo.compare import Settings, _start_worker, chosen, compare, number_of_runs, workers
from memopt_ref.demo.contenders import BY_KEY, CONTENDERS, choose
from memopt_ref.demo.corpus import read_corpus
from memopt_ref.demo.directions import DIRECTIONS, Direction, verdicts
from memopt_ref.demo.model import LanguageModel
from memopt_ref.demo.outcome import Comparison, crossing, mean_curve
from memopt_ref.demo.train import Run, Trial, batches, curve_steps
from memopt_ref.errors import HyperparameterError

SHORT = Settings(steps=16, seeds=2, rates=2, jobs=1)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    random = np.random.default_rng(0)
    ranks = np.minimum(random.zipf(1.3, 9000), 400)
    path = tmp_path_factory.mktemp("text") / "<odd> name.txt"
    path.write_text(" ".join(f"w{chr(97 + r % 26)}{chr(97 + r // 26)}" for r in ranks))
    return path


@pytest.fixture(scope="module")
def corpus(text):
    return read_corpus(text)


@pytest.fixture(scope="module")
def train(corpus):
    """Run one trial in a worker, whose BLAS has one thread: many for such small matrices are slow."""
    with workers(corpus, 1) as run_all:
        yield lambda trial: run_all([trial], lambda run, left: None)[0]


@pytest.fixture(scope="module")
def comparison(corpus):
    return compare(corpus, choose(["sgd", "adagrad", "cs-adam"]), SHORT)


def test_a_run_is_a_function_of_its_trial(train):
    trial = Trial(BY_KEY["cs-adam"], 0.01, seed=1, steps=20, final=True)
    one, again = train(trial), train(trial)
    assert one.curve == again.curve
    assert one.test_perplexity == again.test_perplexity
    assert train(replace(trial, seed=2)).curve != one.curve


def test_workers_have_one_thread_each_and_the_parent_keeps_its_own(corpus, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with workers(corpus, 1):
        assert (os.environ["NUMBA_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("7", "1")
    assert "OMP_NUM_THREADS" not in os.environ
    with ProcessPoolExecutor(1, get_context("spawn"), _start_worker, (corpus,)) as executor:
        assert executor.submit(os.getenv, "NUMBA_NUM_THREADS").result() == "1"


def test_optimizers_of_one_seed_start_from_the_same_weights_and_see_the_same_batches(corpus, comparison):
    starts = {key: [run.curve[0] for run in runs] for key, runs in comparison.finals.items()}
    assert len({tuple(points) for points in starts.values()}) == 1
    assert starts["sgd"][0] != starts["sgd"][1]
    first, same, other = (next(batches(corpus.train, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first.contexts, same.contexts)
    assert not np.array_equal(first.targets, other.targets)


def test_a_pass_sees_every_position_at_most_once_and_then_begins_another(corpus):
    stream, n = batches(corpus.train, 0, size=1000), len(corpus.train) // 1000
    seen = [next(stream) for _ in range(2 * n)]
    for passed in (seen[:n], seen[n:]):
        counts = np.bincount(
            np.concatenate([part.targets for part in passed]), minlength=len(corpus.vocabulary)
        )
        assert np.all(counts <= np.bincount(corpus.train.targets, minlength=len(corpus.vocabulary)))
    assert not np.array_equal(seen[0].targets, seen[n].targets)


def test_training_learns(train):
    run = train(Trial(BY_KEY["adagrad"], 0.1, seed=0, steps=100, final=True))
    assert run.curve[0][1] > 1.5 * run.validation_perplexity
    still = train(Trial(BY_KEY["adagrad"], 0.0, seed=0, steps=4, final=True))
    assert still.curve[0][1] == still.validation_perplexity


def test_a_run_that_diverges_is_an_outcome(train):
    run = train(Trial(BY_KEY["sgd"], 1e30, seed=0, steps=40, final=True))
    assert run.validation_perplexity == math.inf
    assert run.test_perplexity == math.inf


def test_the_learning_rate_is_the_best_of_the_grid_on_the_validation_words(comparison):
    for key, runs in comparison.grids.items():
        assert {run.trial.learning_rate for run in comparison.finals[key]} == {
            chosen(runs).trial.learning_rate
        }
        assert chosen(runs).validation_perplexity == min(run.validation_perplexity for run in runs)
        assert {run.trial.steps for run in runs} == {SHORT.steps // 4}
        assert {run.test_perplexity for run in runs} == {None}


@pytest.mark.parametrize(
    ("perplexities", "taken"),
    [([100, 90, 120], 0.2), ([91, 90, 90], 0.2), ([math.inf, 90, math.inf], 0.2), ([math.inf] * 3, 0.1)],
)
def test_of_equally_good_learning_rates_the_smallest_is_taken(perplexities, taken):
    runs = [
        Run(Trial(BY_KEY["sgd"], rate, 0, 10, False), ((10, float(perplexity)),), None, 0.0, 0.0, 0)
        for rate, perplexity in zip((0.1, 0.2, 0.4), perplexities, strict=True)
    ]
    assert chosen(runs).trial.learning_rate == taken


def test_the_number_of_workers_does_not_change_the_outcome_and_progress_counts_down(corpus, comparison):
    left = []
    two = replace(SHORT, jobs=2)
    side_by_side = compare(corpus, comparison.contenders, two, lambda run, to_come: left.append(to_come))
    assert left == list(reversed(range(number_of_runs(comparison.contenders, SHORT))))
    for key, runs in comparison.finals.items():
        assert [run.curve for run in runs] == [run.curve for run in side_by_side.finals[key]]
        assert comparison.tests(key) == side_by_side.tests(key)


@pytest.mark.parametrize("wrong", [{"steps": 15}, {"seeds": 0}, {"rates": 0}, {"jobs": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(HyperparameterError, match=f"--{next(iter(wrong))}"):
        Settings(**wrong)


def test_the_curve_ends_at_the_last_step():
    assert max(curve_steps(1000)) == 1000
    assert max(curve_steps(16)) == 16
    assert 0 not in curve_steps(16)


def test_every_contender_steps_and_sketches_stand_on_the_tables_only(corpus):
    model = LanguageModel(vocabulary=len(corpus.vocabulary))
    for contender in CONTENDERS:
        params = model.init(0)
        _, grads = model.gradient(params, next(batches(corpus.train, 0)), np.arange(10))
        optimizer = contender.optimizer(params, contender.rates[0], seed=7, steps=10)
        assert optimizer.step(grads)
        leaves = optimizer.state["leaves"]
        on_tables = {path for path in leaves if path in ("embedding/table", "softmax/table")}
        for path, leaf in leaves.items():
            rule = contender.on_tables if path in on_tables else contender.rule
            slots = rule.slots(shapes_of(params)[path], np.dtype(np.float32))
            assert set(leaf) == set(slots), (contender.key, path)


def test_the_learning_rate_falls_to_zero_after_the_last_step_only():
    params = {"embedding": {"table": np.zeros((2, 1), np.float32)}}
    optimizer = BY_KEY["sgd"].optimizer(params, 1.0, seed=0, steps=7)
    seen = [0.0]
    for _ in range(7):
        optimizer.step({"embedding": {"table": np.ones((2, 1), np.float32)}})
        seen.append(float(params["embedding"]["table"][0, 0]))
    # Eight eighths, the last quarter of which is linear; multiples of 1/2 are exact.
    assert np.diff(seen).tolist() == [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -0.5]


def shapes_of(params):
    return {f"{group}/{name}": w.shape for group, names in params.items() for name, w in names.items()}


def test_the_seed_of_a_run_is_the_seed_of_its_hash_functions(corpus):
    model = LanguageModel(vocabulary=len(corpus.vocabulary))
    one, same, other = (BY_KEY["cs-adam"].optimizer(model.init(0), 0.01, seed, 10) for seed in (1, 1, 2))
    seeds = [int(o.state["leaves"]["softmax/table"]["seed"]) for o in (one, same, other)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_state_bytes_are_the_planner_s(corpus, comparison):
    shapes = shapes_of(LanguageModel(vocabulary=len(corpus.vocabulary)).init(0))
    for key in ("sgd", "adagrad"):
        assert comparison.summary(BY_KEY[key]).state_nbytes == mo.state_nbytes(BY_KEY[key].rule, shapes)
    n = len(corpus.vocabulary)
    assert comparison.table_nbytes(BY_KEY["adagrad"]) == 2 * 4 * n * 32
    assert comparison.table_nbytes(BY_KEY["sm3"]) == 2 * 4 * (n + 32)
    assert comparison.table_nbytes(BY_KEY["cms-adagrad"]) <= 2 * 4 * n * 32 / 5


def test_choose_keeps_the_order_and_refuses_what_it_does_not_know():
    assert [c.key for c in choose(["sm3", "sgd"])] == ["sgd", "sm3"]
    assert choose(None) == CONTENDERS
    with pytest.raises(HyperparameterError, match="'adma'"):
        choose(["adma"])


def made_up(corpus, tests, curves=None):
    """A comparison with these test perplexities by contender and seed."""
    finals = {}
    for key, values in tests.items():
        curve = ((0, 500.0), (100, values[0]))
        finals[key] = tuple(
            Run(Trial(BY_KEY[key], 0.1, seed, 100, True), curve, value, 0.002, 0.001, 1000)
            for seed, value in enumerate(values)
        )
    grids = {key: (replace(runs[0], test_perplexity=None),) for key, runs in finals.items()}
    model = LanguageModel(vocabulary=len(corpus.vocabulary))
    return Comparison(corpus, model, 100, 1, tuple(BY_KEY[key] for key in tests), grids, finals)


def test_summary_figures_are_those_of_the_seeds(corpus):
    s = made_up(corpus, {"adagrad": [100.0, 104.0], "sm3": [99.0, 107.0]}).summary(BY_KEY["sm3"])
    # The sample deviation of two values is their distance over sqrt 2.
    assert (s.test_perplexity, s.spread) == (103.0, pytest.approx(8 / math.sqrt(2), rel=1e-15))
    assert s.steps_to == pytest.approx(100 * math.log(5) / math.log(500 / 99), rel=1e-12)
    assert s.seconds_to == pytest.approx(s.steps_to * 0.003, rel=1e-12)
    assert s.reached == 2


def test_an_optimizer_that_never_gets_there_has_no_steps_to(corpus):
    c = made_up(corpus, {"adagrad": [100.0], "sgd": [200.0]})
    assert c.summary(BY_KEY["sgd"]).steps_to is None
    assert c.summary(BY_KEY["sgd"]).reached == 0
    assert c.summary(BY_KEY["adagrad"]).steps_to == 100.0
    assert made_up(corpus, {"sgd": [200.0]}).summary(BY_KEY["sgd"]).steps_to is None


def test_crossing_and_mean_curve_know_about_divergence():
    assert crossing([(0, 10.0), (5, math.inf)], 5.0) is None
    assert crossing([(0, 10.0), (5, 1.0)], math.inf) is None
    assert crossing([(0, 10.0)], 20.0) == 0.0
    assert mean_curve([[(0, 4.0), (5, math.inf)], [(0, 4.0), (5, 2.0)]]) == ((0, 4.0), (5, math.inf))


@pytest.mark.parametrize(
    ("ours", "outcome"),
    [
        ([104.0, 95.0, 104.9], "holds"),
        ([104.0, 106.0, 104.0], "undecided"),
        ([106.0, 120.0, 105.1], "does not hold"),
        ([104.0, 104.0, math.inf], "undecided"),
    ],
)
def test_a_direction_holds_if_it_holds_for_every_seed(corpus, ours, outcome):
    c = made_up(corpus, {"adagrad": [100.0] * 3, "sm3": ours})
    verdict = Direction("", "", ("sm3",), "adagrad", 1.05).judge(c)
    assert verdict.outcome == outcome
    assert f"of {len(ours)} seeds" in verdict.measured


def test_seeds_are_compared_pairwise_not_on_average(corpus):
    # On average 110 against 110; seed by seed 10 % worse and then better.
    c = made_up(corpus, {"adagrad": [100.0, 120.0], "sm3": [110.0, 110.0]})
    assert Direction("", "", ("sm3",), "adagrad", 1.05).judge(c).outcome == "undecided"


def test_the_worst_of_several_decides(corpus):
    sgd_last = Direction("", "", ("adagrad", "sm3", "adam"), "sgd", 1.0)
    assert (
        sgd_last.judge(made_up(corpus, {"sgd": [200.0], "adagrad": [150.0], "sm3": [199.0]})).outcome
        == "holds"
    )
    beaten = made_up(corpus, {"sgd": [200.0], "adagrad": [150.0], "sm3": [201.0]})
    assert sgd_last.judge(beaten).outcome == "does not hold"


def test_directions_of_bytes_follow_from_the_slots(corpus):
    by_key = {d.ours[0]: d for d in DIRECTIONS if d.state}
    c = made_up(corpus, {"adagrad": [1.0], "sm3": [1.0], "cms-adagrad": [1.0], "adam": [1.0]})
    wide = replace(c, model=LanguageModel(vocabulary=8192))
    assert by_key["sm3"].judge(wide).outcome == "holds"
    assert by_key["cms-adagrad"].judge(wide).outcome == "holds"
    assert replace(by_key["sm3"], ours=("adam",)).judge(wide).outcome == "does not hold"


def test_a_direction_without_its_optimizers_is_not_run(corpus):
    outcomes = {v.outcome for v in verdicts(made_up(corpus, {"sgd": [1.0]}))}
    assert outcomes == {"not run"}


VOID = {"meta", "img"}


def addressed(attrs):
    return [value for name, value in attrs if name in ("href", "src", "srcset", "data", "action")]


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += addressed(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += addressed(attrs)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def unbalanced(html):
    parser = Balance()
    parser.feed(html)
    return parser.wrong + parser.open


def addresses(html):
    parser = Balance()
    parser.feed(html)
    return parser.addresses + re.findall(
        r"https?:|//\w|url\((?!#)|@import", re.sub(r"<script.*?</script>", "", html, flags=re.S)
    )


def test_the_page_is_balanced_self_contained_and_escapes_names(comparison):
    html = page.html(comparison)
    assert unbalanced(html) == []
    assert addresses(html) == []
    assert "&lt;odd&gt; name.txt" in html
    assert "<odd>" not in html
    assert html.count("<svg") == 4
    # Both checks see a page that is wrong.
    assert unbalanced(html.replace("</figure>", "", 1))
    assert addresses(html + '<img src="x.png">')


def test_the_page_carries_the_record(comparison):
    html = page.html(comparison)
    found = re.search(r'<script type="application/json" id="record">(.*?)</script>', html, re.S)
    assert json.loads(found[1]) == json.loads(report.json_text(comparison))


def test_the_record_is_strict_json_even_after_a_divergence(corpus):
    c = made_up(corpus, {"adagrad": [100.0, math.inf], "sgd": [math.inf, math.inf]})
    record = json.loads(report.json_text(c), parse_constant=lambda name: pytest.fail(name))
    assert [o["test_perplexity"] for o in record["optimizers"]] == [None, None]
    assert "diverged" in page.html(c)
    assert unbalanced(page.html(c)) == []


def test_tables_have_a_cell_for_every_column(comparison):
    for make in report.SHEETS:
        sheet = make(comparison)
        assert {len(row) for row in sheet.rows} == {len(sheet.columns)}


def test_labels_at_the_ends_of_curves_do_not_touch_and_stay_inside():
    random = np.random.default_rng(0)
    for _ in range(50):
        heights = list(random.uniform(20, 60, 8))
        moved = plots._apart(heights, 10, 290)
        gaps = np.diff(sorted(moved))
        assert gaps.min() >= plots.LINE - 1e-9
        assert min(moved) >= 10
        assert max(moved) <= 290
        assert np.argsort(moved).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(heights)).min() < plots.LINE


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 7.3, False), (55, 90, True), (0.1, 9, True), (60, 8000, True)]
)
def test_ticks_are_few_round_and_inside(low, high, log):
    ticks = plots.Axis(low, high, 0, 100, log=log).ticks()
    assert 3 <= len(ticks) <= 10
    assert all(low <= t <= high for t in ticks)
    assert all(len(f"{t:.6g}".replace(".", "").strip("0")) <= 2 for t in ticks)


def test_an_axis_maps_its_ends_to_its_ends():
    assert [plots.Axis(10, 1000, 0, 100, log=True)(v) for v in (10, 100, 1000, 1)] == [0, 50, 100, 0]


def test_nothing_to_draw_is_drawn_as_that():
    series = [plots.Series("a", 0, ((1.0, math.inf),))]
    assert "nothing to draw" in plots.lines(series, "t", "x", "y")
    assert "nothing to draw" in plots.scatter(series, "t", "x", "y")


def invoke(*arguments):
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


BRIEF = ("--steps", 16, "--seeds", 1, "--jobs", 1, "--rules", "adagrad,sm3")


def test_the_command_prints_tables_and_writes_the_page(text, tmp_path):
    result = invoke("--corpus", text, *BRIEF, "--output", tmp_path / "out.html")
    assert result.exit_code == 0, result.output
    for word in ("Results", "The grid", "What ran", "What the papers say", "SM3", "sha256", "not run"):
        assert word in result.output
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]


def test_json_on_stdout_is_nothing_but_json(text, tmp_path):
    result = invoke("--corpus", text, *BRIEF, "--json", "--output", tmp_path / "out.html")
    record = json.loads(result.stdout)
    assert [o["key"] for o in record["optimizers"]] == ["adagrad", "sm3"]
    assert record["corpus"]["sha256"] == read_corpus(text).sha256
    assert "runs to come" in result.stderr


@pytest.mark.parametrize("content", [None, b"", b"\0" * 9000, b"too short"])
def test_a_bad_corpus_is_a_clear_error_and_nothing_is_written(tmp_path, content):
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    result = invoke("--corpus", bad, *BRIEF, "--output", tmp_path / "out.html")
    assert result.exit_code == 2
    assert str(bad) in result.stderr
    assert "Traceback" not in result.output
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rules", "adma"), "'adma'"),
        (("--steps", 3), "--steps"),
        (("--output", "no/such/folder/x.html"), "does not exist"),
    ],
)
def test_a_bad_option_is_refused_before_any_work(text, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = invoke("--corpus", text, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_leaves_the_older_one(tmp_path, monkeypatch):
    older = tmp_path / "out.html"
    older.write_text("older")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(older, "newer")
    assert older.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["out.html"]
    monkeypatch.undo()
    write(older, "newer")
    assert older.read_text() == "newer"


def test_the_times_say_whose_kernels_were_timed(comparison):
    assert "backend='auto'" in report.times(comparison).note
