from memopt_ref.rules.rmsprop import RMSProp
from tests.table import Case

CASES = [
    Case("rmsprop", RMSProp()),
    Case("rmsprop-centered", RMSProp(centered=True, eps=1e-6)),
    Case("rmsprop-momentum", RMSProp(momentum=0.9, nesterov=True, rate_inside=True, eps=0.0, eps_root=1e-7)),
    Case(
        "rmsprop-everything",
        RMSProp(momentum=0.5, centered=True, bias_correction=True, initial_accumulator=1),
    ),
]
