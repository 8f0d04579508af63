"""The report, its parts, and the documentation's table of bounds."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from memopt_ref.cli import main
from memopt_ref.theory import catalogue, drawings, exhibits, report, report_figures, report_sheets, suites
from memopt_ref.theory.bounds import all_bounds, get
from memopt_ref.theory.verify import VIOLATED, verify

ROOT = Path(__file__).parents[2]
SMALL = ("ogd.tuned", "adagrad.mirror", "adam.thm41", "experts.hedge")


@pytest.fixture(scope="module")
def found():
    """A small suite, a few mutants, and every figure."""
    first = {}
    for entry in suites.core():
        if entry.bound.id in SMALL:
            first.setdefault(entry.bound.id, entry)
    seen = []
    entries = [dataclasses.replace(first["ogd.tuned"], T=64), *(first[n] for n in SMALL[1:])]
    made = report.gather(entries, "ogd x", lambda what, done, total: seen.append((done, total)))
    # Progress ends at what was announced.
    assert seen[-1][0] == seen[-1][1] == len(seen)
    return made


class Page(HTMLParser):
    """Tags that are left open or closed twice, addresses, and anchors."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.ids, self.links, self.texts = [], [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.ids.add(fields.get("id"))
        for name in ("href", "src"):
            if name in fields:
                self.links.add(fields[name])

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_is_whole_and_needs_nothing_beside_it(found):
    html = report.html(found)
    page = Page()
    page.feed(html)
    assert page.wrong == []
    assert page.open == []
    assert page.links
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#clip)", html)
    assert "nan" not in re.sub(r"<script.*?</script>", "", html, flags=re.S).split()


def test_every_theorem_has_a_sheet_with_all_that_is_said_about_it(found):
    page = Page()
    page.feed(report.html(found))
    text = " ".join(page.texts)
    for name, bound in all_bounds().items():
        assert name in page.ids
        for said in (bound.statement, bound.source, bound.errata):
            assert said in text, name


def test_the_record_on_the_page_is_strict_json(found):
    html = report.html(found)
    (inside,) = re.findall(r'<script type="application/json" id="record">(.*?)</script>', html, re.S)
    fields = json.loads(inside, parse_constant=lambda name: pytest.fail(name))
    assert {p["bound"] for p in fields["plays"]} == set(SMALL)
    assert [m["id"] for m in fields["mutants"]][:2] == ["ogd x2", "ogd x0.5"]
    assert fields["exit_code"] == 0


def test_the_hardest_play_is_the_one_with_the_largest_ratio(found):
    hardest = exhibits.hardest(found.entries, found.records)
    assert set(hardest) == set(SMALL)
    for name, (_, record) in hardest.items():
        assert record.ratio == max(r.ratio for r in found.records if r.bound == name)


def test_ratios_against_T_are_replays_of_the_same_game(found):
    curves = {c.bound.id: c for c in found.curves}
    assert curves["ogd.tuned"].points == tuple((float(T), 1.0) for T in exhibits.HORIZONS[:-1])
    # Adam's own theorem: below 1 for short games, above for long ones, growing.
    adam = [ratio for _, ratio in curves["adam.thm41"].points]
    assert adam == sorted(adam)
    assert adam[0] < 1 < adam[-1]
    assert "known to be false" in report_figures.growth(found.curves)


def test_broken_links_come_with_their_lemma(found):
    rows = report_sheets.broken(found.records).rows
    assert [row[0] for row in rows] == ["adam.thm41"]
    assert "R_lin <= C: the theorem" in rows[0]
    unexpected = dataclasses.replace(found.records[0], verdict=VIOLATED)
    assert report_sheets.broken([unexpected]).rows[0][6] == "no: TIGHT"
    assert report_sheets.broken([found.records[0]]).rows == ()


def test_a_survivor_is_named_and_changes_the_exit_code(found):
    sheet = report_sheets.kill_matrix(found.kills)
    assert [len(row) for row in sheet.rows] == [len(sheet.columns)] * 7
    assert all(row[-1] == "" for row in sheet.rows)
    innocent = dataclasses.replace(
        found.kills[0], sharp=found.records[0], dull=dataclasses.replace(found.kills[0].dull, broken=[])
    )
    assert report_sheets.kill_matrix([innocent]).rows[0][-1] == "survives"
    assert dataclasses.replace(found, kills=[innocent]).exit_code == 1
    assert found.exit_code == 0


def test_a_ladder_marks_the_link_that_breaks():
    held = verify(get("ogd.tuned"), suites.core()[2].game(64), 64)
    assert "does-not-hold" not in drawings.ladder(held, "C")
    rule = get("ogd.tuned").rule(suites.core()[2].game(64), 64)
    broken = verify(get("ogd.tuned"), suites.core()[2].game(64), 64, rule.replace(learning_rate=0.5))
    assert drawings.ladder(broken, "C").count("does-not-hold") == 1


def test_worst_sequences_reproduce_their_ratios(found):
    captions = [d.caption for d in found.drawn]
    assert captions[0] == "Gradient descent attains its bound: ratio 1.000"
    assert captions[1] == "Gradient descent with twice its step: ratio 1.250"
    assert "AdaGrad with twice its step: ratio 1.016" in captions
    assert "AdaGrad with half its step: ratio 1.063" in captions
    for d in found.drawn:
        assert len(d.iterates) == len(d.gradients) + 1


def test_adam_goes_to_the_worst_point_of_reddis_game_and_amsgrad_does_not(found):
    duel = found.duels[0]
    assert duel.iterate["Adam"][-1][1] > 0.95
    assert duel.iterate["AMSGrad"][-1][1] < -0.95
    assert duel.regret["Adam"][-1][1] > 0.6
    assert duel.regret["AMSGrad"][-1][1] < 0.03


def test_a_sketch_twice_as_wide_promises_more_and_adagrad_most(found):
    for game in {p.game for p in found.prices}:
        price = {p.rule: p for p in found.prices if p.game == game}
        widths = [price[f"count-min {w}"] for w in (2, 4, 8, 16)]
        assert [p.price for p in widths] == sorted((p.price for p in widths), reverse=True)
        assert [p.bytes_per_parameter for p in widths] == sorted(p.bytes_per_parameter for p in widths)
        # A certificate sums roots of estimates that are at least AdaGrad's; they may differ in the last bit.
        assert all(p.price >= 1 - 1e-12 for p in price.values())
        assert price["SM3-II"].price <= price["SM3-I"].price
        # float32 sums of 24 rows and 16 columns, for 384 entries.
        assert price["SM3-II"].bytes_per_parameter == 4 * (24 + 16) / 384
    tail = {p.rule: p.price for p in found.prices if p.game.startswith("long_tail")}
    assert tail["SM3-II"] == pytest.approx(1.0)


def test_the_command_writes_the_page(tmp_path, monkeypatch, found):
    monkeypatch.setattr(report, "gather", lambda **options: found)
    file = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["verify", "report", "-o", str(file), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["exit_code"] == 0
    assert file.read_text() == report.html(found)
    assert (
        CliRunner().invoke(main, ["verify", "report", "-o", str(tmp_path / "no" / "x.html")]).exit_code == 2
    )
    lost = dataclasses.replace(
        found, records=[dataclasses.replace(found.records[0], verdict=VIOLATED), *found.records[1:]]
    )
    monkeypatch.setattr(report, "gather", lambda **options: lost)
    done = CliRunner().invoke(main, ["verify", "report", "-o", str(file)])
    assert done.exit_code == 1
    assert "1 not as expected" in done.stdout


def test_the_documentations_table_of_bounds_is_what_is_tested():
    done = CliRunner().invoke(main, ["verify", "list", "--markdown"])
    assert done.exit_code == 0
    text = (ROOT / "docs" / "bounds.md").read_text()
    assert text == done.stdout, f"out of date; run: {catalogue.COMMAND}"


def test_the_markdown_has_one_row_of_six_cells_for_each_bound():
    rows = [line for line in catalogue.markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == list(all_bounds())
    assert all(len(re.split(r"(?<!\\)\|", row)) == 8 for row in rows)
