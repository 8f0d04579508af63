from memopt_ref.rules.sgd import SGD
from tests.table import Case

CASES = [
    Case("sgd", SGD()),
    Case("sgd-momentum", SGD(momentum=0.9)),
    Case("sgd-nesterov-decay", SGD(momentum=0.9, nesterov=True, weight_decay=0.01)),
    Case("sgd-dampening", SGD(momentum=0.5, dampening=0.3, weight_decay=0.01, weight_decay_mode="decoupled")),
]
