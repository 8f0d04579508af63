"""The calls that are recorded and compared live: one table for ``tests/golden/record.py`` and the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Limits = tuple[float, float, str]
USUAL: Limits = (1e-12, 2e-6, "")

#: Why a library is further away than rounding: tolerance in float64, in float32, reason.
FLOAT32_DECAY = (5e-7, 2e-6, "the library computes t^-0.8 in float32 whatever the dtype of the parameters")
FLOAT32_CORRECTION = (1e-12, 5e-5, "the library computes 1 - b^t in float32")
FLOAT32_ROOT = (1e-12, 1e-3, "roots from a float32 SVD of a matrix of condition up to 1e8")
FLOAT32_ROOT_RIDGE = (1e-12, 2e-5, "roots from a float32 SVD of a matrix of condition up to 1e4")
CANCELS = (1e-11, 1e-3, "at step 1 the corrected variance g^2 - g^2 rounds to some ulp of g^2, beside eps")


@dataclass(frozen=True)
class Call:
    """A constructor call of a library.

    ``float64``, ``float32``: largest allowed difference of weights over the largest weight; ``reason`` why it
    is not the usual. ``scalars``: whether the library steps a 0-d parameter, and as it does the others.
    """

    library: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    float64: float = USUAL[0]
    float32: float = USUAL[1]
    reason: str = ""
    scalars: bool = True

    @property
    def text(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.library}.{self.function}({given})"

    def tolerance(self, dtype: Any) -> float:
        return self.float64 if str(dtype) == "float64" else self.float32


def torch(function: str, **arguments: Any) -> Call:
    return Call("torch", function, arguments)


def optax(function: str, *, limits: Limits = USUAL, scalars: bool = True, **arguments: Any) -> Call:
    return Call("optax", function, arguments, *limits, scalars)


def keras(function: str, *, limits: Limits = USUAL, **arguments: Any) -> Call:
    return Call("keras", function, arguments, *limits)


def transformers(function: str, **arguments: Any) -> Call:
    return Call("transformers", function, arguments)


def kozistr(function: str, *, limits: Limits = USUAL, scalars: bool = True, **arguments: Any) -> Call:
    return Call("pytorch_optimizer", function, arguments, *limits, scalars)


CALLS = [
    torch("SGD", lr=0.1),
    torch("SGD", lr=0.1, momentum=0.9, weight_decay=0.01),
    torch("SGD", lr=0.1, momentum=0.9, dampening=0.3),
    torch("SGD", lr=0.1, momentum=0.9, nesterov=True),
    torch("Adagrad", lr=0.1),
    torch("Adagrad", lr=0.1, lr_decay=0.2, weight_decay=0.01, initial_accumulator_value=0.5, eps=1e-3),
    torch("RMSprop", lr=0.05),
    torch("RMSprop", lr=0.05, alpha=0.9, eps=1e-3, momentum=0.9, weight_decay=0.01),
    torch("RMSprop", lr=0.05, alpha=0.9, eps=1e-3, centered=True),
    torch("Adam", lr=0.05),
    torch("Adam", lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1),
    torch("Adam", lr=0.05, betas=(0.8, 0.95), amsgrad=True, weight_decay=0.1),
    torch("Adam", lr=0.05, weight_decay=0.1, decoupled_weight_decay=True),
    torch("AdamW", lr=0.05),
    torch("AdamW", lr=0.05, betas=(0.8, 0.95), weight_decay=0.5, amsgrad=True),
    torch("Adafactor"),
    torch("Adafactor", lr=0.5, eps=(1e-15, 1e-3), weight_decay=0.1),
    torch("Adafactor", lr=0.05, beta2_decay=-0.5, eps=(0.3, 0.1), d=1.5),
    optax("sgd", learning_rate=0.1),
    optax("sgd", learning_rate=0.1, momentum=0.9),
    optax("sgd", learning_rate=0.1, momentum=0.9, nesterov=True),
    optax("adagrad", learning_rate=0.1),
    optax("adagrad", learning_rate=0.1, initial_accumulator_value=0.0, eps=1e-3),
    optax("rmsprop", learning_rate=0.05),
    optax("rmsprop", learning_rate=0.05, eps=1e-3, eps_in_sqrt=False, initial_scale=1.0, momentum=0.9),
    optax("rmsprop", learning_rate=0.05, eps=1e-3, centered=True, momentum=0.9, nesterov=True),
    optax("rmsprop", learning_rate=0.05, bias_correction=True),
    optax(
        "rmsprop",
        learning_rate=0.05,
        limits=CANCELS,
        eps=1e-2,
        centered=True,
        bias_correction=True,
    ),
    optax("adam", learning_rate=0.05),
    optax("adam", learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-2),
    optax("adamw", learning_rate=0.05),
    optax("adamw", learning_rate=0.05, weight_decay=0.5),
    optax("amsgrad", learning_rate=0.05, b2=0.95),
    optax("amsgrad", learning_rate=0.05, b2=0.95, bias_correction_mu=False, bias_correction_nu=False),
    optax("adafactor", learning_rate=0.05, limits=FLOAT32_DECAY, min_dim_size_to_factor=0),
    optax("adafactor", learning_rate=0.05, limits=FLOAT32_DECAY),
    optax(
        "adafactor",
        learning_rate=0.05,
        limits=FLOAT32_DECAY,
        min_dim_size_to_factor=3,
        momentum=0.9,
        weight_decay_rate=0.01,
        multiply_by_parameter_scale=False,
        clipping_threshold=0.5,
        decay_rate=0.6,
    ),
    optax("adafactor", limits=FLOAT32_DECAY, min_dim_size_to_factor=0),
    optax("sm3", learning_rate=0.1, scalars=False),
    optax("sm3", learning_rate=0.1, scalars=False, momentum=0.0),
    optax("scale_by_sm3", scalars=False, b1=0.5, b2=0.9, eps=1e-3),
    keras("SGD", learning_rate=0.1, momentum=0.9, weight_decay=0.1),
    keras("SGD", learning_rate=0.1, momentum=0.9, nesterov=True),
    keras("Adagrad", learning_rate=0.1),
    keras("Adagrad", learning_rate=0.1, initial_accumulator_value=0.0, epsilon=1e-3, weight_decay=0.1),
    keras("RMSprop", learning_rate=0.05),
    keras("RMSprop", learning_rate=0.05, rho=0.8, epsilon=1e-3, momentum=0.9, centered=True),
    keras("Adam", limits=FLOAT32_CORRECTION, learning_rate=0.05),
    keras("Adam", learning_rate=0.05, beta_1=0.8, beta_2=0.95, epsilon=1e-3, amsgrad=True, weight_decay=0.1),
    keras("AdamW", limits=FLOAT32_CORRECTION, learning_rate=0.05),
    keras("AdamW", learning_rate=0.05, weight_decay=0.5, epsilon=2.0),
    keras("Adafactor", limits=FLOAT32_DECAY),
    keras("Adafactor", limits=FLOAT32_DECAY, weight_decay=0.1),
    keras(
        "Adafactor",
        limits=FLOAT32_DECAY,
        learning_rate=0.5,
        beta_2_decay=-0.65,
        epsilon_1=1e-15,
        epsilon_2=1e-4,
        clip_threshold=0.9,
    ),
    keras("Ftrl", learning_rate=0.1),
    keras(
        "Ftrl",
        learning_rate=0.05,
        learning_rate_power=-0.2,
        initial_accumulator_value=0.4,
        l1_regularization_strength=0.05,
        l2_regularization_strength=0.15,
        l2_shrinkage_regularization_strength=0.01,
        beta=0.3,
    ),
    transformers("Adafactor"),
    transformers("Adafactor", warmup_init=True, beta1=0.9),
    transformers("Adafactor", lr=0.05, relative_step=False, scale_parameter=False, weight_decay=0.1),
    transformers("Adafactor", lr=0.05, relative_step=False, beta1=0.5, clip_threshold=0.5, decay_rate=-0.5),
    kozistr("SM3", lr=0.1),
    kozistr("SM3", lr=0.1, momentum=0.9, eps=1e-3),
    kozistr("SM3", scalars=False, lr=0.1, momentum=0.5, beta=0.9),
    kozistr("Shampoo", limits=FLOAT32_ROOT, scalars=False, lr=0.1),
    kozistr(
        "Shampoo",
        limits=FLOAT32_ROOT_RIDGE,
        scalars=False,
        lr=0.1,
        matrix_eps=1e-2,
        weight_decay=0.1,
        weight_decouple=True,
    ),
    kozistr("Shampoo", limits=FLOAT32_ROOT_RIDGE, scalars=False, lr=0.1, matrix_eps=1e-2, weight_decay=0.1),
    kozistr("FTRL", lr=0.1),
    kozistr("FTRL", lr=0.1, beta=1.0, lambda_1=0.3, lambda_2=0.1),
    kozistr("AdaFactor", betas=(None, 0.999)),
    kozistr("AdaFactor", betas=(None, 0.5), lr=0.05, relative_step=False, weight_decay=0.1, fixed_decay=True),
    kozistr("AdaFactor", betas=(None, 0.999), weight_decay=0.1, weight_decouple=False, scale_parameter=False),
]
