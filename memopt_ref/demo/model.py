r"""A word-level language model in plain NumPy, forward and backward.

Y. Bengio, R. Ducharme, P. Vincent and C. Jauvin, "A neural probabilistic language model", JMLR 2003 (the
network, without its direct connections); Y. Bengio and J.-S. Senecal, "Adaptive importance sampling to
accelerate training of a neural probabilistic language model", 2008 (sampled softmax).

    x = [E[c_1]; E[c_2]; E[c_3]]          embeddings of the context, concatenated        [B, context * width]
    h = tanh(x W + a)                     hidden layer                                   [B, width]
    z_k = h . S[k] + b[k]                 one logit a word, table S and bias b           [B, vocabulary]

Training compares the target with K shared negatives, drawn log-uniformly from the words by rank,
p_k = ln((k + 2) / (k + 1)) / ln(V + 1), each logit corrected by -ln(K p_k); a negative that is the target is
left out. Hence both tables get row-sparse gradients. Evaluation is the full softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parts.row_sparse import RowSparse
from .corpus import Ids, Split

Array = NDArray[Any]
Parameters = dict[str, dict[str, Array]]

#: Glob of the two tables among the parameters' paths: ``embedding/table`` and ``softmax/table``.
TABLES = "*/table"


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """The network's sizes; it holds no arrays.

    Parameters
    ----------
    vocabulary, width, context : int
        Rows of the two tables, numbers in a row, words that predict the next one.
    negatives : int
        K, words drawn for one batch.
    """

    vocabulary: int
    width: int = 32
    context: int = 3
    negatives: int = 300

    def init(self, seed: int, dtype: Any = np.float32) -> Parameters:
        """Normal tables and weights of deviation 1 / sqrt(inputs), zero biases."""
        random = np.random.default_rng([seed, 0])
        n, d, inputs = self.vocabulary, self.width, self.width * self.context

        def normal(rows: int, columns: int, fan_in: int) -> Array:
            return np.asarray(random.standard_normal((rows, columns)) / np.sqrt(fan_in), dtype)

        return {
            "embedding": {"table": normal(n, d, d)},
            "hidden": {"weight": normal(inputs, d, inputs), "bias": np.zeros(d, dtype)},
            "softmax": {"table": normal(n, d, d), "bias": np.zeros(n, dtype)},
        }

    def draw(self, random: np.random.Generator) -> Ids:
        """K negatives, with replacement."""
        ranks = np.expm1(random.random(self.negatives) * np.log(self.vocabulary + 1))
        return np.asarray(np.minimum(ranks, self.vocabulary - 1), np.int64)

    def correction(self, words: Ids, dtype: Any) -> Array:
        """ln(K p_k), the log of how often a word is expected among the negatives."""
        p = np.log((words + 2) / (words + 1)) / np.log(self.vocabulary + 1)
        return np.asarray(np.log(self.negatives * p), dtype)

    def hidden(self, params: Parameters, contexts: Ids) -> tuple[Array, Array]:
        """``(x, h)``: the concatenated embeddings and the hidden layer."""
        x = params["embedding"]["table"][contexts].reshape(len(contexts), -1)
        return x, np.tanh(x @ params["hidden"]["weight"] + params["hidden"]["bias"])

    def gradient(
        self, params: Parameters, batch: Split, negatives: Ids
    ) -> tuple[float, dict[str, dict[str, Array | RowSparse]]]:
        """Mean sampled-softmax loss of a batch, and its gradient; that of the tables and of b is row-sparse.

        Parameters
        ----------
        params : Parameters
            Any floating dtype; the gradient has the same.
        batch : Split
            Contexts [B, context] and targets [B].
        negatives : array of int, shape [K]
        """
        table, bias = params["softmax"]["table"], params["softmax"]["bias"]
        targets, n = batch.targets, len(batch)
        x, h = self.hidden(params, batch.contexts)

        z = np.empty((n, 1 + len(negatives)), h.dtype)
        z[:, 0] = np.einsum("bd,bd->b", h, table[targets]) + bias[targets] - self.correction(targets, h.dtype)
        z[:, 1:] = h @ table[negatives].T + (bias[negatives] - self.correction(negatives, h.dtype))
        z[:, 1:][targets[:, None] == negatives] = -np.inf
        z -= z.max(axis=1, keepdims=True)
        q = np.exp(z)
        total = q.sum(axis=1, keepdims=True)
        loss = float(np.mean(np.log(total[:, 0]) - z[:, 0]))

        dz = q / (total * n)
        dz[:, 0] -= 1 / n
        d_true, d_noise = dz[:, :1], dz[:, 1:]
        dh = d_true * table[targets] + d_noise @ table[negatives]
        da = dh * (1 - h * h)
        dx = da @ params["hidden"]["weight"].T
        words = np.concatenate([targets, negatives])
        return loss, {
            "embedding": {
                "table": summed(batch.contexts.ravel(), dx.reshape(-1, self.width), self.vocabulary)
            },
            "hidden": {"weight": x.T @ da, "bias": da.sum(axis=0)},
            "softmax": {
                "table": summed(words, np.concatenate([d_true * h, d_noise.T @ h]), self.vocabulary),
                "bias": summed(words, np.concatenate([d_true[:, 0], d_noise.sum(axis=0)]), self.vocabulary),
            },
        }

    def perplexity(self, params: Parameters, split: Split, batch: int = 128) -> float:
        """exp of the mean negative log-likelihood under the full softmax; infinite after a divergence."""
        total = 0.0
        with np.errstate(all="ignore"):
            for start in range(0, len(split), batch):
                part = Split(split.contexts[start : start + batch], split.targets[start : start + batch])
                _, h = self.hidden(params, part.contexts)
                z = h @ params["softmax"]["table"].T
                z += params["softmax"]["bias"]
                z -= z.max(axis=1, keepdims=True)
                of_target = z[np.arange(len(part)), part.targets]
                total += float(np.sum(np.log(np.exp(z, out=z).sum(axis=1)) - of_target, dtype=np.float64))
        mean = total / len(split)
        return exp(mean) if mean < 700 else float("inf")


def summed(indices: Ids, rows: Array, n: int) -> RowSparse:
    """A row-sparse gradient whose rows of one index are summed already, so that the cost is the model's.

    Examples
    --------
    >>> g = summed(np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0]), 4)
    >>> g.indices, g.rows
    (array([0, 2]), array([2., 4.]))
    """
    order = np.argsort(indices, kind="stable")
    ascending = indices[order]
    starts = np.flatnonzero(np.diff(ascending, prepend=-1))
    return RowSparse(ascending[starts], np.add.reduceat(rows[order], starts, axis=0), (n, *rows.shape[1:]))
