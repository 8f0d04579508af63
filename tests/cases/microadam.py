from memopt_ref.parts.compressors import OneBit, TopK
from memopt_ref.parts.quantize import Quantiser
from memopt_ref.rules.analysed_microadam import AnalysedMicroAdam
from memopt_ref.rules.microadam import MicroAdam
from memopt_ref.rules.topk_adam import TopKAdam
from tests.table import Case

CASES = [
    Case("microadam", MicroAdam()),
    Case("microadam-short", MicroAdam(window=3, density=0.3, block=8, bucket=4, weight_decay=0.01)),
    Case(
        "microadam-stochastic",
        MicroAdam(window=2, density=0.25, block=7, bucket=5, rounding="stochastic", seed=3, eps=0.0),
    ),
    Case("microadam-8bit", MicroAdam(window=3, density=0.3, block=8, error_bits=8, value_dtype="float32")),
    Case(
        "microadam-exact", MicroAdam(density=0.3, error_bits=None, value_dtype="float32", weight_decay=0.01)
    ),
    Case(
        "microadam-no-feedback",
        MicroAdam(density=0.3, error_bits=0, weight_decay_mode="l2", weight_decay=0.01),
    ),
    Case("analysed-microadam", AnalysedMicroAdam()),
    Case(
        "analysed-microadam-8bit",
        AnalysedMicroAdam(
            compressor=TopK(k=2, block=5), quantiser=Quantiser(8, 6, "stochastic", None), seed=1
        ),
    ),
    Case(
        "analysed-microadam-exact",
        AnalysedMicroAdam(compressor=OneBit(), quantiser=None, eps=1e-3, weight_decay=0.01),
    ),
    Case("topk-adam", TopKAdam()),
    Case(
        "topk-adam-feedback", TopKAdam(compressor=TopK(density=0.3), error_feedback=True, weight_decay=0.01)
    ),
]
