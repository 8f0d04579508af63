from memopt_ref.parts.fixed_hashes import LegacyHash
from memopt_ref.parts.hashing import CarterWegman, MultiplyShift
from memopt_ref.rules.count_sketch import CountSketchAdaGrad, CountSketchMomentum
from memopt_ref.rules.count_sketch_adam import CountSketchAdam, CountSketchRMSProp
from memopt_ref.rules.low_rank import LowRankAdam
from tests.table import SHAPES, Case

#: Something has to be hashed: no scalars.
TABLES = tuple(shape for shape in SHAPES if shape)

CASES = [
    Case("cs-momentum", CountSketchMomentum(), TABLES),
    Case(
        "cs-momentum-global", CountSketchMomentum(decay="global", nesterov=True, hash=CarterWegman()), TABLES
    ),
    Case(
        "cs-momentum-row",
        CountSketchMomentum(delta_from="row", order="sequential", hash=LegacyHash()),
        TABLES,
    ),
    Case("cms-adagrad", CountSketchAdaGrad(), TABLES),
    Case("cms-adagrad-conservative", CountSketchAdaGrad(conservative=True, clean_every=3), TABLES),
    Case(
        "cs-adagrad-signed",
        CountSketchAdaGrad(combine="median", eps=0.0, depth=4, order="sequential"),
        TABLES,
    ),
    Case("cs-adam", CountSketchAdam(), TABLES),
    Case("cs-adam-v", CountSketchAdam(moments="second", hash=MultiplyShift(), clean_every=5), TABLES),
    Case("cs-adam-no-m", CountSketchAdam(beta1=0.0, decay="global", conservative=True), TABLES),
    Case(
        "cs-adam-decayed",
        CountSketchAdam(decay="global", weight_decay=0.01, weight_decay_mode="decoupled"),
        TABLES,
    ),
    Case(
        "cs-adam-row", CountSketchAdam(delta_from="row", bias_correction="eps_hat", depth=1, width=2), TABLES
    ),
    Case("cms-rmsprop", CountSketchRMSProp(), TABLES),
    Case(
        "cms-rmsprop-mean",
        CountSketchRMSProp(combine="mean", eps=0.0, decay="global", depth=5, weight_decay=0.01),
        TABLES,
    ),
    Case("low-rank-adam", LowRankAdam()),
    Case("low-rank-adam-no-m", LowRankAdam(beta1=0.0, bias_correction="eps_hat", weight_decay=0.01)),
]
