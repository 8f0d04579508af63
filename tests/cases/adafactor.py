from memopt_ref.rules.adafactor import Adafactor
from tests.table import Case

CASES = [
    Case("adafactor", Adafactor()),
    Case("adafactor-momentum", Adafactor(beta1=0.9, weight_decay=0.01)),
    Case("adafactor-momentum-of-update", Adafactor(beta1=0.9, momentum_of="update", step_size="warm_up")),
    Case("adafactor-fixed", Adafactor(step_size="fixed", scale_parameter=False, clip_threshold=None)),
    Case(
        "adafactor-adam-decay",
        Adafactor(beta2_schedule="adam", beta2=0.99, weight_decay=0.1, weight_decay_mode="l2"),
    ),
    Case("adafactor-unfactored", Adafactor(factored=False, beta2_schedule="constant", beta2=0.9)),
    Case(
        "adafactor-torch",
        Adafactor(eps1=None, eps_mode="clamp", weight_decay=0.1, weight_decay_mode="learning_rate"),
    ),
    Case("adafactor-keras", Adafactor(learning_rate=1e-3, weight_decay=0.1, weight_decay_mode="before")),
    Case(
        "adafactor-largest",
        Adafactor(factor_axes="largest", min_dim=2, weight_decay=0.1, weight_decay_mode="independent"),
    ),
]
