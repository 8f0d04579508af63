"""parts/random.py against SplitMix64's published sequence, and the promises that kernels rely on."""

from __future__ import annotations

import numpy as np
import pytest

from memopt_ref.parts.random import GOLDEN_GAMMA, leaf_seed, splitmix64, uniform

# The first outputs of a SplitMix64 generator seeded with 0: state 0, gamma, 2 gamma, ...
FROM_ZERO = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
MASK = (1 << 64) - 1


def by_hand(state: int) -> int:
    """The finaliser in Python's integers."""
    z = (state + int(GOLDEN_GAMMA)) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def assert_published_sequence(mix):
    states = [(k * int(GOLDEN_GAMMA)) & MASK for k in range(3)]
    assert [int(mix(np.uint64(s))) for s in states] == FROM_ZERO


def assert_uniform(x):
    """Chi-square of 64 bins, 63 +- 11.2, and lag-one correlation, 0 +- 1 / sqrt n: six deviations each."""
    n = len(x)
    counts = np.bincount((x * 64).astype(int), minlength=64)
    assert abs(np.sum((counts - n / 64) ** 2) / (n / 64) - 63) < 6 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 6 / np.sqrt(n)


def test_splitmix64_gives_the_published_sequence():
    assert_published_sequence(splitmix64)


def test_splitmix64_equals_integer_arithmetic_at_the_edges_of_the_range():
    states = [0, 1, MASK, MASK - int(GOLDEN_GAMMA), 1 << 63, 0x0123456789ABCDEF]
    assert [int(v) for v in splitmix64(np.array(states, np.uint64))] == [by_hand(s) for s in states]


def test_splitmix64_is_one_to_one_on_a_sample():
    assert len(np.unique(splitmix64(np.arange(100_000, dtype=np.uint64)))) == 100_000


def test_uniform_numbers_are_multiples_of_two_to_the_minus_24_below_one():
    x = uniform(5, 1, 10_000)
    assert x.dtype == np.float32
    assert np.all((x >= 0) & (x < 1))
    assert np.all(x * 2.0**24 == np.floor(x * 2.0**24))
    assert len(np.unique(x)) > 9_990


def test_an_element_depends_on_seed_t_and_index_alone():
    long = uniform(7, 3, 1000)
    for n in (0, 1, 17, 999):
        assert uniform(7, 3, n).tobytes() == long[:n].tobytes()
    for other in (uniform(8, 3, 1000), uniform(7, 4, 1000)):
        # Two independent multiples of 2^-24 agree with probability 2^-24.
        assert np.count_nonzero(other == long) <= 2


def test_an_element_is_the_documented_hash():
    stream = by_hand(by_hand(7) ^ 3)
    wanted = [(by_hand((stream + i) & MASK) >> 40) * 2.0**-24 for i in range(20)]
    assert uniform(7, 3, 20).tolist() == wanted


@pytest.mark.parametrize(("seed", "t"), [(0, 0), (0, 1), (1, 0), (2**63, 5), (123456789, 10**6)])
def test_numbers_are_uniform_within_and_across_steps(seed, t):
    assert_uniform(uniform(seed, t, 100_000))
    assert_uniform(np.array([uniform(seed, k, 1)[0] for k in range(t, t + 4000)]))


def test_leaf_seeds_differ_by_path_and_by_seed():
    seeds = {leaf_seed(seed, path) for seed in range(20) for path in ("", "a", "b", "ab", "ba", "a/b", "é")}
    assert len(seeds) == 20 * 7
    assert all(0 <= s <= MASK for s in seeds)
    assert leaf_seed(0, "w") == by_hand(by_hand(0) ^ ord("w"))


def test_no_warning_is_raised_on_overflow():
    uniform(MASK, MASK, 3)
    leaf_seed(MASK, "x")


def test_checks_catch_a_wrong_constant_and_a_linear_counter():
    with pytest.raises(AssertionError):
        assert_published_sequence(lambda x: splitmix64(x) ^ np.uint64(1))
    with pytest.raises(AssertionError):
        assert_published_sequence(lambda x: splitmix64(int(x) >> 1))
    weyl = (np.arange(100_000, dtype=np.uint64) * GOLDEN_GAMMA >> np.uint64(40)) * 2.0**-24
    with pytest.raises(AssertionError):
        assert_uniform(weyl)
