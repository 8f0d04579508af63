from memopt_ref.parts.compressors import Identity, OneBit, ScaledSign, TopK
from memopt_ref.rules.error_feedback import EF21, ErrorFeedbackSGD
from tests.table import Case

CASES = [
    Case("ef-sgd", ErrorFeedbackSGD()),
    Case("ef-sgd-blocks", ErrorFeedbackSGD(compressor=TopK(density=0.3, block=4), weight_decay=0.01)),
    Case("ef-sgd-sign", ErrorFeedbackSGD(compressor=ScaledSign())),
    Case("ef-sgd-sign-blocks", ErrorFeedbackSGD(compressor=ScaledSign(block=4))),
    Case(
        "ef-sgd-one-bit",
        ErrorFeedbackSGD(compressor=OneBit(), weight_decay=0.01, weight_decay_mode="decoupled"),
    ),
    Case("ef-sgd-4bit", ErrorFeedbackSGD(compressor=TopK(density=0.3), error_bits=4, bucket=6)),
    Case(
        "ef-sgd-stochastic",
        ErrorFeedbackSGD(compressor=TopK(density=0.3), error_bits=8, bucket=6, rounding="stochastic", seed=5),
    ),
    Case("ef-sgd-no-feedback", ErrorFeedbackSGD(compressor=ScaledSign(), error_bits=0)),
    Case("ef21", EF21()),
    Case("ef21-identity", EF21(compressor=Identity())),
    Case("ef21-sign", EF21(compressor=ScaledSign(), weight_decay=0.01)),
]
