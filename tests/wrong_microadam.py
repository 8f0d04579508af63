"""Plausible mistakes in MicroAdam, one a class: the tests assert that their checks fail on them."""

from __future__ import annotations

import numpy as np

from memopt_ref.rules.microadam import MicroAdam


class WindowClock(MicroAdam):
    """1 - beta^min(t, window) instead of the true t."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        t = min(int(values["t"]), self.window)
        m_hat = (1 - self.beta1) / (1 - self.beta1**t) * values["m"]
        v_hat = (1 - self.beta2) / (1 - self.beta2**t) * values["v"]
        return {**values, "w": w - self.learning_rate * m_hat / (np.sqrt(v_hat) + self.eps)}


class FlatScatter(MicroAdam):
    """z[I] += X over the whole window at once: an index that occurs in two rows is added once."""

    def statistics(self, w, I, V, t):  # noqa: E741
        blocks, m, v = self.blocks(w.size), np.zeros(w.size, w.dtype), np.zeros(w.size, w.dtype)
        rows = range(min(t, self.window))
        at = np.concatenate([blocks.offsets + blocks.row(I, self.window, i) for i in rows])
        x = [blocks.row(V, self.window, i).astype(w.dtype) for i in rows]
        ages = [(t - 1 - i) % self.window for i in rows]
        m[at] += np.concatenate([self.beta1**r * row for r, row in zip(ages, x, strict=True)])
        v[at] += np.concatenate([self.beta2**r * row * row for r, row in zip(ages, x, strict=True)])
        return m.reshape(w.shape), v.reshape(w.shape)


class NewestFirst(MicroAdam):
    """Rows added by age instead of in storage order."""

    def statistics(self, w, I, V, t):  # noqa: E741
        blocks, m, v = self.blocks(w.size), np.zeros(w.size, w.dtype), np.zeros(w.size, w.dtype)
        for age in range(min(t, self.window)):
            i = (t - 1 - age) % self.window
            at = blocks.offsets + blocks.row(I, self.window, i)
            x = blocks.row(V, self.window, i).astype(w.dtype)
            m[at] += w.dtype.type(self.beta1**age) * x
            v[at] += w.dtype.type(self.beta2**age) * (x * x)
        return m.reshape(w.shape), v.reshape(w.shape)


class QuantiseFirst(MicroAdam):
    """Bounds of the buckets taken before the kept entries are zeroed."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        quantiser = self.error.quantiser
        values["e_min"], values["e_max"] = quantiser.bounds(values["a"].reshape(-1))
        codes = quantiser.encode(values["residual"].reshape(-1), values["e_min"], values["e_max"])
        values["e"] = np.append(codes, np.zeros(codes.size % 2, np.uint8)).reshape(-1, 2) @ np.array(
            [16, 1], np.uint8
        )
        return values


class Forgets(MicroAdam):
    """The error is added twice: the buffer is not emptied of what was sent."""

    def step(self, w, g, state):
        values = super().step(w, g, state)
        return {**values, "e": values["a"]}
