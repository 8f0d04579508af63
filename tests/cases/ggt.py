from memopt_ref.rules.ggt import GGT
from tests.table import Case

CASES = [
    Case("ggt", GGT(window=3)),
    Case("ggt-long", GGT(window=30, beta2=0.9, eps=1e-2, weight_decay=0.01)),
    Case("ggt-pseudo-inverse", GGT(window=2, beta2=0.9, eps=0.0)),
    Case("ggt-momentum", GGT(window=3, momentum=0.9, eps=1e-2)),
    Case("ggt-momentum-pseudo-inverse", GGT(window=3, momentum=0.9, eps=0.0)),
]
