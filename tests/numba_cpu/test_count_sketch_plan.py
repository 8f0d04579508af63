"""Where active rows live in their sketches, and the two orders in which the buckets meet them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.parts.hashing import Avalanche
from tests.numba_cpu.inputs import same_bits

pytest.importorskip("numba", reason="the kernels need numba")
from memopt_ref.backends.numba_cpu import count_sketch_engine, count_sketch_plan


def test_compiled_hashing_is_that_of_the_family():
    items = np.sort(np.random.default_rng(0).choice(2**32, 300, replace=False)).astype(np.int64)
    for seed, width in ((0, 1), (7, 13_333), (2**63, 2**26)):
        places = np.empty((items.size, 6), np.uint32)
        own = count_sketch_engine.keys(seed, (1, 2), 3)
        for s, signed in enumerate((True, False)):
            count_sketch_plan.locate(items, own[s], signed, width, 3 * s, places)
            family, own_seed = Avalanche(), mo.parts.hashing.moment_seed(seed, 1 + s)
            for j in range(3):
                found = places[:, 3 * s + j].astype(np.int64)
                expected = j * width + family.buckets(items, j, width, own_seed)
                assert np.array_equal(found & ~np.int64(2**31), expected)
                signs = family.signs(items, j, width, own_seed)
                assert np.array_equal(found >> 31, (signs < 0) & signed)


def planned(places, width, sketches=1, near=True, batched=True):
    """Both ways to a plan, as the engine takes them."""
    k, columns = places.shape
    depth = columns // sketches
    held, ready = np.zeros_like(places), np.empty(k, np.bool_)
    order, closing, later = np.empty((3, k), np.uint32)
    if not near:
        most = count_sketch_plan.in_turn(places, width, batched, held, order, ready, closing, later)
        return most, held, order, ready, closing, later
    links, counts = np.empty((sketches, 4, k * depth), np.int32), np.empty(sketches, np.int64)
    for s in range(sketches):
        counts[s] = count_sketch_plan.link(places, s * depth, depth, width, links[s])
    most = count_sketch_plan.settle(links, counts, order, held, ready, closing, later)
    return most, held, order, ready, closing, later


def some_places(rows, width, depth, sketches, seed=0):
    rng = np.random.default_rng(seed)
    base = np.tile(width * np.arange(depth), sketches)
    places = (rng.integers(0, width, (rows, depth * sketches)) + base).astype(np.uint32)
    places[:, 0] |= (rng.integers(0, 2, rows) << 31).astype(np.uint32)
    return places


def test_partners_are_met_soon_after_one_another():
    # Rows 0, 2 and 5 share buckets, 1 and 4, 3 alone; the sign of a place is none of its number.
    places = np.array([[0, 9], [1, 8], [0, 7], [2, 6], [1, 10], [3, 7]], np.uint32)
    places[2, 0] |= count_sketch_plan.NEGATIVE
    alone = int(count_sketch_plan.ALONE)
    most, held, order, ready, closing, later = planned(places, 6)
    assert order.tolist() == [0, 2, 5, 1, 4, 3]
    assert ready.tolist() == [False, False, False, True, True, True]
    assert closing.tolist() == [0, 1, 1, 0, 1, 0]
    assert later[:3].tolist() == [0, 2, 1]
    assert most == 2
    assert held.tolist() == [[0, alone], [4, alone], [2, 4], [alone, alone], [6, alone], [alone, 6]]
    most, held, order, ready, closing, later = planned(places, 6, near=False)
    assert order.tolist() == [0, 1, 2, 3, 4, 5]
    assert closing.tolist() == [0, 0, 0, 0, 0, 3]
    assert later[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("near", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "depth", "sketches"),
    [(1, 1, 1, 1), (40, 7, 3, 2), (300, 900, 3, 2), (500, 400, 2, 1), (2000, 5000, 3, 2), (0, 3, 2, 1)],
)
def test_every_bucket_meets_its_rows_in_ascending_order(rows, width, depth, sketches, near):
    places = some_places(rows, width, depth, sketches)
    most, held, order, ready, closing, later = planned(places, width, sketches, near)
    assert sorted(order.tolist()) == list(range(rows))
    at, spans = np.argsort(order), {}
    due = at.copy()
    bare = (places & ~count_sketch_plan.NEGATIVE).astype(np.int64)
    for column in range(depth * sketches):
        for place in set(bare[:, column].tolist()):
            own = np.flatnonzero(bare[:, column] == place)
            assert (np.diff(at[own]) > 0).all()
            assert (held[own, column] % 4).tolist() == (
                [3] if own.size == 1 else [0, *[1] * (own.size - 2), 2]
            )
            due[own] = np.maximum(due[own], at[own[-1]])
            if own.size > 1:
                # The sum of a bucket stays in one place from its first row to its last.
                (number,) = set((held[own, column] // 4).tolist())
                spans.setdefault(number, []).append((at[own[0]], at[own[-1]]))
    # A place serves one sum at a time, from the row before which another begins.
    for own in spans.values():
        own.sort()
        assert all(before[1] < after[0] for before, after in itertools.pairwise(own))
    assert len(spans) == most
    # A row is stepped once, when all its buckets are done with.
    assert ready.tolist() == (due == at).tolist()
    assert closing.sum() == (~ready).sum()
    stepped = np.repeat(np.arange(rows), closing)
    waiting = later[: stepped.size].astype(np.int64)
    assert sorted(waiting.tolist()) == np.flatnonzero(~ready).tolist()
    assert (stepped == due[waiting]).all() if near else (stepped >= due[waiting]).all()


def test_partners_are_near_where_there_are_many_buckets():
    places = some_places(4096, 13_333, 3, 2)
    shares = []
    for near in (True, False):
        _, _, order, _, closing, later = planned(places, 13_333, 2, near)
        at, stepped = np.argsort(order), np.repeat(np.arange(4096), closing)
        shares.append(np.mean(stepped - at[later[: stepped.size]] > 50) * stepped.size / 4096)
    assert shares[0] < 0.12
    assert shares[1] > 0.5


def test_rows_that_go_alone_share_nothing():
    places = some_places(50, 3, 2, 1)
    most, held, order, ready, closing, _ = planned(places, 3, near=False, batched=False)
    assert most == 0
    assert (held == count_sketch_plan.ALONE).all()
    assert order.tolist() == list(range(50))
    assert ready.all()
    assert not closing.any()


def test_both_ways_to_the_links_agree():
    items = np.arange(0, 9000, 3, dtype=np.int64)
    own, signed = count_sketch_engine.keys(5, (1, 2), 3), np.array([True, False])
    found = []
    for at_once in (False, True):
        places, counts = np.empty((items.size, 6), np.uint32), np.zeros(2, np.int64)
        links = np.full((2, 4, items.size * 3), -7, np.int32)
        arguments = (items, own, signed, 3, 1000, True, places, links, counts)
        if at_once:
            count_sketch_plan.parallel(*arguments)
        else:
            count_sketch_plan.found(0, *arguments)
            count_sketch_plan.found(1, *arguments)
        assert (counts > 0).all()
        found.append((places, links, counts))
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))
