"""Deliberate mistakes in the kernels of row-wise AdaGrad and error feedback, each of which is noticed."""

from __future__ import annotations

import numpy as np
import pytest

import memopt_ref as mo
from memopt_ref.backends.cupy_gpu import error_feedback, error_feedback_engine, row_wise
from memopt_ref.parts.compressors import OneBit, ScaledSign, TopK
from memopt_ref.parts.row_sparse import RowSparse
from tests.cuda_sim.device import KernelError
from tests.cupy_gpu.machines import Simulated, assert_same_steps, simulated
from tests.cupy_gpu.test_mutants import Mistake, Mutating
from tests.numba_cpu.inputs import hard

pytestmark = simulated


def rows(machine):
    """Several rows a warp with a short last pack; rows of several packs a thread."""
    for shape in ((37, 11), (5, 300)):
        w, g = hard(shape, share=0), hard(shape, seed=1, share=0)
        assert_same_steps(machine, row_wise.step, mo.RowWiseAdaGrad(), w, [g])


def packed_rows(machine):
    w, g = hard((9, 132), share=0), hard((9, 132), seed=1, share=0)
    assert_same_steps(machine, row_wise.step, mo.RowWiseAdaGrad(), w, [g])


def decayed_rows(machine):
    rule = mo.RowWiseAdaGrad(weight_decay=0.1)
    w, g = hard((9, 24), share=0), hard((9, 24), seed=1, share=0)
    assert_same_steps(machine, row_wise.step, rule, w, [g])


def sparse_rows(machine):
    g = RowSparse(np.array([1, 4, 7]), hard((3, 40), seed=1, share=0), (9, 40))
    assert_same_steps(machine, row_wise.step, mo.RowWiseAdaGrad(), hard((9, 40), share=0), [g, g])


def norm(machine):
    w, g = hard((9, 700), share=0), hard((9, 700), seed=1, share=0)
    assert_same_steps(machine, row_wise.step, mo.AdaGradNorm(), w, [g, g])


def long_rows(machine):
    w, g = hard((3, 1101), share=0), hard((3, 1101), seed=1, share=0)
    assert_same_steps(machine, row_wise.step, mo.RowWiseAdaGrad(), w, [g, g])


def tied(shape, seed=5):
    """Few magnitudes, each many times, of both signs."""
    rng = np.random.default_rng(seed)
    return rng.choice([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0], shape).astype(np.float32)


def feedback(machine, rule, shape, **options):
    """A step along ties, and one along numbers of many sizes with some NaN."""

    def step(*arguments):
        error_feedback.step(*arguments, **options)

    g = hard(shape, seed=1, share=0)
    g.flat[[0, -1]] = np.nan, -np.nan
    assert_same_steps(machine, step, rule, hard(shape, share=0), [tied(shape), g])


def plain(compressor):
    """Descent along C(lr g): the compressor meets ties and zeros as they come."""
    return mo.ErrorFeedbackSGD(learning_rate=0.5, compressor=compressor, error_bits=0)


def blocks(machine):
    """Of more and of fewer entries than a thread block, and a short last one."""
    for block, shape in ((300, (5, 141)), (7, (61,))):
        feedback(machine, plain(TopK(density=0.3, block=block)), shape)
    feedback(machine, plain(TopK(density=0.9, block=700)), (3, 601))


def two_kinds_of_nan(machine):
    g = hard((61,), share=0)
    g.view(np.uint32)[[5, 40]] = 0x7FC00000, 0xFFFFFFFF
    assert_same_steps(
        machine, error_feedback.step, mo.TopKAdam(compressor=TopK(k=1)), hard((61,), seed=1, share=0), [g]
    )


def one_large_block(machine):
    """Whose ties lie in more tiles than a thread block has threads; the last kept in the first or later."""

    def step(*arguments):
        error_feedback.step(*arguments, large=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_feedback_engine, "TILE", 5)
        for kept in (900, 1390):
            w, g = hard((1403,), share=0), tied((1403,))
            assert_same_steps(machine, step, plain(TopK(k=kept)), w, [g])


def large_blocks(machine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(error_feedback_engine, "TILE", 300)
        feedback(machine, plain(TopK(density=0.2, block=700)), (3, 601), large=0)


def signs(machine):
    feedback(machine, plain(ScaledSign(block=700)), (3, 601))


def one_bit(machine):
    """Columns with one side empty, several runs and a short last one, zeros."""
    shape = 131, 7
    g = hard(shape, share=0)
    g[:, 2], g[:, 3], g[::5] = abs(g[:, 2]), -abs(g[:, 3]), 0
    g[5, 4] = np.nan
    w = hard(shape, seed=1, share=0)
    assert_same_steps(machine, error_feedback.step, plain(OneBit()), w, [g])


def quantised(machine):
    for bits, rounding in ((4, "nearest"), (7, "stochastic")):
        rule = mo.ErrorFeedbackSGD(
            compressor=TopK(density=0.2), error_bits=bits, bucket=9, rounding=rounding, seed=3
        )
        feedback(machine, rule, (33, 7))


def adam_on_top_k(machine):
    rule = mo.TopKAdam(error_feedback=True, compressor=TopK(density=0.1, block=32), weight_decay=0.1)
    feedback(machine, rule, (9, 30))


TEXT = {
    "a column too many": Mistake("inside && column + n < columns", "inside && column + n <= columns", rows),
    "the last column is dropped": Mistake("column + n < columns", "column + n < columns - 1", rows),
    "a pack too many": Mistake(
        "if (inside && column < columns)", "if (inside && column <= columns)", packed_rows
    ),
    "a row too many": Mistake("const bool inside = row < rows", "const bool inside = row <= rows", rows),
    "rows that return before the lanes meet": Mistake(
        "const long long own = inside", "if (!inside) return;\n    const long long own = inside", rows
    ),
    "the row's number written before all have read it": Mistake("    __syncwarp();\n", "", rows),
    "every lane writes the row's number": Mistake("inside && first == 0", "inside", rows),
    "lanes of two rows are joined": Mistake("apart < group; apart *= 2", "apart < 32; apart *= 2", rows),
    "half of a row's lanes": Mistake("apart < group; apart *= 2", "2 * apart < group; apart *= 2", rows),
    "distant lanes are joined first": Mistake(
        "int apart = 1; apart < group; apart *= 2", "int apart = group / 2; apart > 0; apart /= 2", rows
    ),
    "lanes of a thread joined in a row": Mistake(
        "(lanes[0] + lanes[1]) + (lanes[2] + lanes[3])",
        "((lanes[0] + lanes[1]) + lanes[2]) + lanes[3]",
        rows,
    ),
    "the mean of the padded row": Mistake("sum / share_", "sum / (Real)(group * 4)", rows),
    "the step from the old number": Mistake("x[k] + n, s,", "x[k] + n, s_all[own],", rows),
    "a step along the raw gradient": Mistake("x_to[n] = x;", "x_to[n] = g_read;", decayed_rows),
    "the list of rows is not looked at": Mistake("inside ? listed[row] : 0", "inside ? row : 0", sparse_rows),
    "numbers of the gradient's rows": Mistake("s_all[own]", "s_all[row]", sparse_rows),
    "the tensor's number starts anew": Mistake("s[row] = s[row] + sums", "s[row] = sums", norm),
    "a leaf of a leaf too few": Mistake("if (at < count)", "if (at < count - 1)", norm),
    "a row too many is settled": Mistake("    if (row < rows)\n", "    if (row <= rows)\n", long_rows),
    "a row's number for its neighbour": Mistake("s_all[row];", "s_all[row ? row - 1 : 0];", long_rows),
    "NaN by its payload": Mistake("image < nan ? image : nan", "image", two_kinds_of_nan),
    "the sign counts": Mistake("image_of(x) & ~(Image)0 >> 1", "image_of(x)", blocks),
    "ties of the last index": Mistake("at + n <= last_", "at + n >= last_", blocks),
    "every tie is kept": Mistake(" && at + n <= last_", "", blocks),
    "one tie too few": Mistake("at + n <= last_", "at + n < last_", blocks),
    "the place of another row": Mistake("*last = from + place", "*last = place", blocks),
    "ties counted from the block's first round": Mistake(
        "        done += all;\n    }\n}", "    }\n}", blocks
    ),
    "the digit of the smallest": Mistake("BINS - 1 - (int)threadIdx.x", "(int)threadIdx.x", blocks),
    "bins above are not counted": Mistake("wanted -= found.above;", "", blocks),
    "bins that are not cleared": Mistake(
        "            bins[k] = 0;", "            if (left + width == BITS) bins[k] = 0;", blocks
    ),
    "no barrier before the bins are counted": Mistake(
        "            bins[k] = 0;\n        __syncthreads();", "            bins[k] = 0;", blocks
    ),
    "no barrier before the bins are looked at": Mistake(
        "        __syncthreads();\n        find(bins", "        find(bins", blocks
    ),
    "a plain sum in the bins": Mistake(
        "atomicAdd(&bins[(int)digits & ((1 << width) - 1)], 1u)",
        "++bins[(int)digits & ((1 << width) - 1)]",
        blocks,
    ),
    "digits of another prefix": Mistake("digits >> width == prefix", "true", blocks),
    "a warp's total of another": Mistake(
        "warp < threadIdx.x / 32; ++warp", "warp + 1 < threadIdx.x / 32; ++warp", blocks
    ),
    "totals overwritten while they are read": Mistake(
        "    // The totals are written anew in the next round.\n    __syncthreads();\n", "", blocks
    ),
    "a barrier that some do not reach": Mistake(
        "place_of(x, from, columns, prefix, wanted, last + blockIdx.x, totals)",
        "if (threadIdx.x < columns) place_of(x, from, columns, prefix, wanted, last + blockIdx.x, totals)",
        blocks,
    ),
    "an entry too many is counted": Mistake(
        "place < columns; place += BLOCK", "place <= columns; place += BLOCK", blocks
    ),
    "too few are kept of a large block": Mistake("missing - found.above", "missing", one_large_block),
    "bins that are left full": Mistake(
        "        own[k] = 0;\n    if (threadIdx.x == 0) {",
        "        ;\n    if (threadIdx.x == 0) {",
        one_large_block,
    ),
    "a plain sum over tiles": Mistake(
        "atomicAdd(bins + row * BINS + k, (Long)own[k])", "bins[row * BINS + k] += own[k]", large_blocks
    ),
    "bins of the first row": Mistake("atomicAdd(bins + row * BINS", "atomicAdd(bins", large_blocks),
    "every tile is the first": Mistake("blockIdx.x % tiles * tile", "0 * tile", one_large_block),
    "a tile beyond its row": Mistake("columns - begin < tile ? columns - begin : tile", "tile", large_blocks),
    "ties of the first row": Mistake("ties[row * tiles + k]", "ties[k]", large_blocks),
    "a tile too late": Mistake(
        "before < kept && kept <= before + own", "before <= kept && kept < before + own", one_large_block
    ),
    "a place without its tile": Mistake(
        "x, row * columns + begin, count", "x, row * columns, count", one_large_block
    ),
    "the mean of a full block": Mistake("total_ / length_", "total_ / (Real)700", signs),
    "a sum with its signs": Mistake("const Real q = absolute(x_);", "const Real q = x_;", signs),
    "the sign of 0": Mistake("scale * sign(x_)", "scale * (x_ < (Real)0 ? (Real)-1 : (Real)1)", signs),
    "zeros are below": Mistake("entry < (Real)0", "entry <= (Real)0", one_bit),
    "a run from its end": Mistake(
        "x[(first + step) * columns", "x[(first + steps - 1 - step) * columns", one_bit
    ),
    "a plain sum of members": Mistake(
        "atomicAdd(members + column, (Long)negatives)", "members[column] += negatives", one_bit
    ),
    "sides the wrong way round": Mistake(
        "select(x_ < (Real)0, below_, above_)", "select(x_ < (Real)0, above_, below_)", one_bit
    ),
    "runs beyond the matrix": Mistake("rows - first < RUN ? (int)(rows - first) : RUN", "RUN", one_bit),
    "halves the wrong way round": Mistake("place % 2 ? 0 : 4", "place % 2 ? 4 : 0", quantised),
    "codes beyond the largest": Mistake("positive < levels ? positive : levels", "positive", quantised),
    "codes below 0": Mistake("raised > (Real)0 ? raised : (Real)0", "raised", quantised),
    "cut off instead of rounded": Mistake("(int)(y + (Real)0.5f)", "(int)y", quantised),
    "random numbers of the entry before": Mistake(
        "stream + (Long)place", "stream + (Long)place - 1", quantised
    ),
    "the last bucket is as long as others": Mistake(
        "count - first < bucket ? count - first : bucket", "bucket", quantised
    ),
    "a bucket's bounds for its neighbour": Mistake(
        "low[place / bucket]", "low[place / bucket ? place / bucket - 1 : 0]", quantised
    ),
    "an odd entry too many": Mistake(
        "        if (place < count)\n            code |=", "            code |=", quantised
    ),
    "the error is what was sent": Mistake("x_one = x_ - c;", "x_one = c;", adam_on_top_k),
    "the error is not added": Mistake("x_one = x_ + x;", "x_one = x;", adam_on_top_k),
    "decay after the step": Mistake(
        "const Real begun = w_ * decay_;", "const Real begun = w_;", adam_on_top_k
    ),
}


@pytest.mark.parametrize("name", TEXT)
def test_a_mistake_in_a_kernel_is_noticed(name):
    mistake = TEXT[name]
    device = Mutating(mistake.old, mistake.new)
    with pytest.raises((AssertionError, KernelError)):
        mistake.noticed_by(Simulated.on(device))
    assert device.changed, "the text has changed: bring the mistake up to it"


@pytest.mark.parametrize("check", sorted({m.noticed_by for m in TEXT.values()}, key=lambda f: f.__name__))
def test_without_a_mistake_nothing_is_noticed(check):
    check(Simulated())
