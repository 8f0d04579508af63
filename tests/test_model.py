"""The language model: its gradient, its sampling, its perplexity."""

import numpy as np
import pytest

from memopt_ref.demo.corpus import Split
from memopt_ref.demo.model import LanguageModel, summed
from memopt_ref.parts.row_sparse import RowSparse

MODEL = LanguageModel(vocabulary=40, width=5, context=3, negatives=12)
LEAVES = [(group, name) for group, names in MODEL.init(0).items() for name in names]


def some_batch(n=9, seed=3):
    random = np.random.default_rng(seed)
    batch = Split(random.integers(0, 40, (n, 3)), random.integers(0, 40, n))
    negatives = MODEL.draw(random)
    # A negative that is somebody's target, and one drawn twice.
    negatives[:3] = batch.targets[0], batch.targets[0], negatives[5]
    return batch, negatives


def dense(g):
    return g.to_dense() if isinstance(g, RowSparse) else g


def worst_disagreement(gradient):
    """Largest relative difference between a gradient in float64 and central differences of the loss."""
    params, (batch, negatives) = MODEL.init(0, np.float64), some_batch()
    params["softmax"]["bias"][:] = np.random.default_rng(1).normal(size=40)
    _, grads = gradient(params, batch, negatives)
    worst, h = 0.0, 1e-5
    for group, name in LEAVES:
        w, g = params[group][name], dense(grads[group][name])
        numeric = np.empty_like(w)
        for at in np.ndindex(w.shape):
            kept, sides = w[at], []
            for shift in (h, -h):
                w[at] = kept + shift
                sides.append(MODEL.gradient(params, batch, negatives)[0])
            w[at] = kept
            numeric[at] = (sides[0] - sides[1]) / (2 * h)
        worst = max(worst, float(np.abs(numeric - g).max() / np.abs(g).max()))
    return worst


def test_the_gradient_agrees_with_finite_differences():
    # Central differences: h^2 / 6 times the third derivative (about 1e-11) and 2 eps / h (about 4e-11), over
    # a gradient of at least 1e-2.
    assert worst_disagreement(MODEL.gradient) < 1e-8


def test_a_gradient_that_forgets_the_tanh_is_caught():
    class Linear(LanguageModel):
        def gradient(self, params, batch, negatives):
            loss, grads = super().gradient(params, batch, negatives)
            _, h = self.hidden(params, batch.contexts)
            grads["hidden"]["bias"] = grads["hidden"]["bias"] / (1 - np.mean(h * h, axis=0))
            return loss, grads

    assert worst_disagreement(Linear(vocabulary=40, width=5, negatives=12).gradient) > 1e-3


def test_float32_stays_float32():
    params, (batch, negatives) = MODEL.init(0), some_batch()
    _, grads = MODEL.gradient(params, batch, negatives)
    assert {grads[g][n].dtype for g, n in LEAVES} == {np.dtype(np.float32)}


def test_the_tables_get_rows_once_each_and_only_those_that_the_batch_touches():
    batch, negatives = some_batch()
    _, grads = MODEL.gradient(MODEL.init(0), batch, negatives)
    embedding, softmax, bias = (
        grads[g][n] for g, n in LEAVES if (g, n) not in (("hidden", "weight"), ("hidden", "bias"))
    )
    assert np.array_equal(embedding.indices, np.unique(batch.contexts))
    touched = np.unique(np.concatenate([batch.targets, negatives]))
    assert np.array_equal(softmax.indices, touched)
    assert np.array_equal(bias.indices, touched)
    assert embedding.is_coalesced
    assert softmax.is_coalesced


def test_summed_rows_equal_the_coalesced_gradient():
    random = np.random.default_rng(0)
    indices, rows = random.integers(0, 7, 50), random.normal(size=(50, 3))
    ours, theirs = summed(indices, rows, 9), RowSparse(indices, rows, (9, 3)).coalesced()
    assert np.array_equal(ours.indices, theirs.indices)
    # At most 50 terms of size 3 in another order.
    assert np.abs(ours.rows - theirs.rows).max() <= 50 * 50 * 3 * np.finfo(float).eps


def test_negatives_are_drawn_log_uniformly_by_rank():
    random = np.random.default_rng(0)
    model = LanguageModel(vocabulary=40, negatives=200_000)
    counts = np.bincount(model.draw(random), minlength=40)
    expected = np.exp(model.correction(np.arange(40), np.float64))
    assert expected.sum() == pytest.approx(200_000, rel=1e-12)
    # Pearson's statistic has 39 degrees of freedom: 80 is exceeded with probability 1e-4; the seed is fixed.
    assert np.sum((counts - expected) ** 2 / expected) < 80
    assert np.sum((counts - 5000) ** 2 / 5000) > 80


def test_with_every_word_as_a_negative_the_sampled_loss_is_the_full_one():
    # If the target is left out and the others come once each without correction, both are the same softmax.
    class Plain(LanguageModel):
        def correction(self, words, dtype):
            return np.zeros(len(words), dtype)

    model = Plain(vocabulary=40, width=5, negatives=40)
    params, (batch, _) = model.init(0, np.float64), some_batch()
    loss, _ = model.gradient(params, batch, np.arange(40))
    # Two sums of 40 terms in another order.
    assert np.exp(loss) == pytest.approx(model.perplexity(params, batch), rel=1e-13)
    assert np.exp(loss) != pytest.approx(model.perplexity(params, some_batch(seed=4)[0]), rel=1e-3)


def test_perplexity_of_a_model_that_knows_nothing_is_the_vocabulary():
    params = MODEL.init(0)
    params["softmax"]["table"][:] = 0
    # 40 equal exponentials sum exactly; one log and one exp remain.
    assert MODEL.perplexity(params, some_batch()[0]) == pytest.approx(40, rel=1e-6)


def test_perplexity_is_the_same_in_parts_and_infinite_when_parameters_are_not_finite():
    params, (batch, _) = MODEL.init(0, np.float64), some_batch(n=50)
    # Sums of 50 terms in another order, in float64.
    assert MODEL.perplexity(params, batch, batch=7) == pytest.approx(
        MODEL.perplexity(params, batch), rel=1e-13
    )
    params["softmax"]["bias"][3] = np.nan
    assert MODEL.perplexity(params, batch) == np.inf


def test_equal_seeds_give_equal_models():
    one, same, other = (MODEL.init(seed) for seed in (5, 5, 6))
    assert all(np.array_equal(one[g][n], same[g][n]) for g, n in LEAVES)
    assert not np.array_equal(one["embedding"]["table"], other["embedding"]["table"])
