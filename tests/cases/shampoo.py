from memopt_ref.rules.shampoo import Shampoo
from tests.table import Case

CASES = [
    Case("shampoo", Shampoo()),
    Case("shampoo-pseudo-inverse", Shampoo(eps=0.0)),
    Case("shampoo-momentum", Shampoo(momentum=0.9, dampening=0.1, weight_decay=0.01)),
    Case("shampoo-momentum-of-update", Shampoo(momentum=0.9, momentum_of="update", beta2=0.95)),
    Case(
        "shampoo-interval",
        Shampoo(interval=3, exponent=-0.5, weight_decay=0.01, weight_decay_mode="decoupled"),
    ),
    Case("shampoo-diagonal", Shampoo(max_axis=3)),
    Case("shampoo-skip", Shampoo(max_axis=3, long_axes="skip", interval=2)),
]
