"""Hash families: published and re-computed values, and the statistics that a sketch relies on."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.errors import HyperparameterError, RowIndexError
from memopt_ref.parts.fixed_hashes import LegacyHash, TableHash
from memopt_ref.parts.hashing import (
    Avalanche,
    CarterWegman,
    HashFamily,
    MultiplyShift,
    lowbias32,
    moment_seed,
    row_keys,
)

SEEDED = (Avalanche(), MultiplyShift(), CarterWegman())

# Values of the public code's hash before the modulus, from a C program: three rows, then their signs.
GOLDEN = {
    0: (1551950793, 382813279, 551590109, 1069881566, 822611641, 428021074),
    1: (1023706841, 1551201288, 489793339, 531862715, 1277999128, 1595949956),
    2: (849916109, 1097103452, 246847395, 1433653188, 1685128859, 1623901538),
    3: (1606745146, 961319482, 1303706508, 1862610375, 333701019, 1673571),
    4: (761103557, 962353715, 437176006, 856564272, 693401968, 1512894458),
    5: (1492328880, 457892907, 2066472801, 1429557705, 82490212, 1959431519),
    6: (551956319, 439334383, 1585695245, 2094593827, 695962935, 1727181822),
    7: (185564866, 82986908, 565074292, 247090673, 222636393, 1965795412),
    100: (2081516376, 1625999911, 738414812, 1359162566, 2011503025, 1966330902),
    33277: (1157667797, 1753533928, 1259140521, 466737758, 1325889582, 1862702662),
    267734: (1328940068, 1511949772, 1202199166, 1400261500, 54167320, 1700319406),
    793470: (1538542840, 1034171870, 2021895672, 437746667, 322252743, 356713641),
}


def legacy_values(family: LegacyHash) -> dict[int, tuple[int, ...]]:
    items = list(GOLDEN)
    rows = [
        family.raw(items, a + shift, b + more)
        for shift, more in ((0, 0), (2, 3))
        for a, b in family.constants
    ]
    return {item: tuple(int(row[k]) for row in rows) for k, item in enumerate(items)}


def test_legacy_family_has_the_public_codes_values():
    assert legacy_values(LegacyHash()) == GOLDEN

    class Logical(LegacyHash):
        # Unsigned shifts, as the finaliser is usually written.
        def raw(self, items, a, b):
            h = np.asarray(items).astype(np.uint32) * np.uint32(a) + np.uint32(b)
            for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
                h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
            return (h ^ (h >> np.uint32(16))).astype(np.int64)

    assert legacy_values(Logical()) != GOLDEN


def test_legacy_buckets_and_signs_are_those_of_the_public_code():
    for item, values in GOLDEN.items():
        for width in (16, 17, 52898):
            for row in range(3):
                assert LegacyHash().buckets([item], row, width, 0)[0] == values[row] % width
                assert LegacyHash().signs([item], row, width, 0)[0] == (
                    1 if values[3 + row] % width % 2 else -1
                )
    assert [int(LegacyHash().buckets([0], row, 16, 0)[0]) for row in range(3)] == [9, 15, 13]
    assert [int(LegacyHash().signs([0], row, 16, 0)[0]) for row in range(3)] == [-1, 1, -1]
    raw = LegacyHash().raw(np.arange(300_000), *LegacyHash.constants[0])
    assert raw.min() >= 0
    assert raw.max() < 2**31


def test_lowbias32_is_the_published_chain_of_shifts_and_multiplications():
    def plain(x: int) -> int:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = ((x ^ (x >> shift)) * factor) % 2**32
        return x ^ (x >> 16)

    xs = np.random.default_rng(0).integers(0, 2**32, 200, dtype=np.uint64)
    assert lowbias32(xs).tolist() == [plain(int(x)) for x in xs]
    # A bijection that fixes 0, so that folding leaves 32-bit items alone.
    assert lowbias32(np.zeros(1, np.uint64))[0] == 0
    assert np.unique(lowbias32(np.arange(100_000, dtype=np.uint64))).size == 100_000


@pytest.mark.parametrize("row", [0, 2])
@pytest.mark.parametrize("width", [1, 2, 5, 64, 6613])
def test_families_agree_with_integers_of_any_size(row, width):
    seed, items = 2**63 + 12345, [0, 1, 2, 77, 65536, 2**31 - 2]
    a, b, c, d = (int(key) for key in row_keys(seed, row))
    p = 2**31 - 1

    def mixed(x: int, a: int, b: int) -> int:
        return int(lowbias32(np.array([((a | 1) * x + b) % 2**32], np.uint64))[0])

    expected = {
        Avalanche(): [(mixed(i, a, b) * width >> 32, 1 - 2 * (mixed(i, c, d) >> 31)) for i in items],
        MultiplyShift(): [
            (((a * i + b) % 2**64 >> 32) * width >> 32, 1 - 2 * ((c * i + d) % 2**64 >> 63)) for i in items
        ],
        CarterWegman(): [
            (
                ((a % (p - 1) + 1) * i + b % p) % p % width,
                1 - 2 * (((c % (p - 1) + 1) * i + d % p) % p % 2),
            )
            for i in items
        ],
    }
    for family, pairs in expected.items():
        buckets, signs = family.buckets(items, row, width, seed), family.signs(items, row, width, seed)
        assert list(zip(buckets.tolist(), signs.tolist(), strict=True)) == pairs
        assert buckets.dtype == np.int64
        assert signs.dtype == np.int8


def sign_bias(family: HashFamily, width: int) -> float:
    n = 40_000
    biases = [family.signs(np.arange(n), row, width, seed=3).astype(float).mean() for row in range(3)]
    return max(abs(bias) for bias in biases) * n**0.5


@pytest.mark.parametrize("width", [1, 3, 5, 16, 1001])
def test_signs_are_balanced_for_odd_and_even_widths(width):
    # The standard deviation of the mean of n pairwise independent signs is 1 / sqrt(n); seeds are fixed.
    for family in SEEDED:
        assert sign_bias(family, width) < 4


@pytest.mark.parametrize(("width", "mean"), [(1, -1.0), (3, -1 / 3), (5, -1 / 5)])
def test_legacy_signs_have_mean_minus_one_over_odd_widths(width, mean):
    signs = LegacyHash().signs(np.arange(40_000), 0, width, 0).astype(float)
    assert abs(signs.mean() - mean) < 4 / 200
    assert sign_bias(LegacyHash(), width) > 4
    assert sign_bias(LegacyHash(), 16) < 4


@pytest.mark.parametrize("family", SEEDED, ids=lambda family: type(family).__name__)
def test_a_pair_collides_about_once_in_width_draws(family):
    # Over independent seeds a pair meets with probability 1/w (up to 1e-9): 5 deviations of the binomial.
    draws, width = 1000, 8
    for pair in ((0, 1), (17, 90_001), (2, 66)):
        met = [len(set(family.buckets(pair, 1, width, seed).tolist())) == 1 for seed in range(draws)]
        same = [family.signs(pair, 1, width, seed).sum() != 0 for seed in range(draws)]
        assert abs(np.mean(met) - 1 / width) < 5 * (1 / width * (1 - 1 / width) / draws) ** 0.5
        assert abs(np.mean(same) - 0.5) < 5 * (0.25 / draws) ** 0.5


def test_buckets_load_evenly_and_are_unrelated_to_signs_rows_and_moments():
    n, width, family = 100_000, 997, Avalanche()
    items = np.arange(n)
    buckets = [
        family.buckets(items, row, width, seed)
        for seed in (moment_seed(7, 1), moment_seed(7, 2))
        for row in (0, 1)
    ]
    for row in buckets:
        counts = np.bincount(row, minlength=width)
        chi2 = ((counts - n / width) ** 2 / (n / width)).sum() / (width - 1)
        # sd of chi^2 / df is sqrt(2 / df) = 0.045; 5 of them.
        assert abs(chi2 - 1) < 0.23
    signs = family.signs(items, 0, width, moment_seed(7, 1)).astype(float)
    for a in range(4):
        centred = buckets[a] - buckets[a].mean()
        assert abs(np.mean(centred / centred.std() * signs)) < 5 / n**0.5
        for b in range(a):
            assert abs(np.mean(buckets[a] == buckets[b]) - 1 / width) < 5 * (1 / width / n) ** 0.5


def test_no_two_rows_or_moments_share_a_key():
    keys = [
        int(key) for moment in (1, 2) for row in range(8) for key in row_keys(moment_seed(5, moment), row)
    ]
    assert len(set(keys)) == 64


def test_avalanche_takes_any_64_bit_item():
    items = np.array([-1, 2**40, 2**40 + 1, 2**32, 0, 5], np.int64)
    buckets = Avalanche().buckets(items, 0, 2**30, 1)
    assert len(set(buckets.tolist())) == 6
    assert Avalanche().buckets([5], 0, 2**30, 1)[0] == buckets[5]


@pytest.mark.parametrize(
    ("family", "item"), [(MultiplyShift(), -1), (MultiplyShift(), 2**32), (CarterWegman(), 2**31 - 1)]
)
def test_items_outside_a_familys_range_are_refused(family, item):
    with pytest.raises(RowIndexError, match=f"item {item}"):
        family.buckets([0, item], 0, 4, 0)


def test_table_hash_is_a_value_and_checks_its_tables():
    table = TableHash(np.array([[0, 1, 1]]), np.array([[1, -1, 1]]))
    assert table == TableHash([[0, 1, 1]], [[1, -1, 1]])
    assert hash(table) == hash(TableHash([[0, 1, 1]], [[1, -1, 1]]))
    assert mo.CountSketchAdam(hash=table) == mo.CountSketchAdam(hash=table)
    assert TableHash.identity(3).buckets([2, 0], 0, 3, 9).tolist() == [2, 0]
    assert TableHash([[0, 1]]).signs([0, 1], 0, 2, 0).tolist() == [1, 1]
    for tables in (([0, 1],), ([[0.5]],), ([[-1]],), ([[0, 1]], [[1]]), ([[0]], [[2]]), ([[0]], [[0]])):
        with pytest.raises(HyperparameterError, match="TableHash"):
            TableHash(*tables)
    with pytest.raises(HyperparameterError, match="buckets in"):
        table.buckets([1], 0, 1, 0)
    with pytest.raises(HyperparameterError, match="row 1"):
        table.buckets([1], 1, 2, 0)
    with pytest.raises(RowIndexError, match="item 3"):
        table.buckets([3], 0, 2, 0)
    with pytest.raises(HyperparameterError, match="row 3"):
        LegacyHash().buckets([0], 3, 4, 0)


def test_empty_items_and_width_one_are_served():
    for family in (*SEEDED, LegacyHash(), TableHash([[0, 0, 0]])):
        assert family.buckets(np.arange(3), 0, 1, 0).tolist() == [0, 0, 0]
        assert family.buckets(np.empty(0, np.int64), 0, 4, 0).shape == (0,)
        assert family.signs(np.empty(0, np.int64), 0, 4, 0).shape == (0,)
