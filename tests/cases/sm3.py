from memopt_ref.parts.covers import HashCover, IndexCover
from memopt_ref.rules.sm3 import SM3
from tests.table import Case

# The six entries of a vector, a matrix or a 3-tensor, in overlapping sets.
SIX = IndexCover(((0, 1, 2), (2, 3), (5, 4, 3, 0), (1,)))

CASES = [
    Case("sm3", SM3()),
    Case("sm3-i", SM3(variant="I")),
    Case("sm3-momentum", SM3(momentum=0.9)),
    Case("sm3-i-momentum", SM3(variant="I", momentum=0.9)),
    Case("sm3-authors", SM3(momentum=0.9, eps_root=1e-30)),
    Case("sm3-overwrite", SM3(beta2=0.9)),
    Case("sm3-ratchet", SM3(beta2=0.9, ema="ratchet")),
    Case("sm3-decay", SM3(eps=1e-16, weight_decay=0.01, weight_decay_mode="decoupled")),
    Case("sm3-index-cover", SM3(cover=SIX), shapes=((6,), (2, 3), (3, 1, 2))),
    Case("sm3-i-index-cover", SM3(variant="I", cover=SIX), shapes=((6,), (2, 3), (3, 1, 2))),
    Case("sm3-hash-entries", SM3(cover=HashCover(depth=2, width=5))),
    Case("sm3-hash-rows", SM3(cover=HashCover(depth=2, width=3, seed=7, of="rows"), momentum=0.5)),
    Case("sm3-hash-overwrite", SM3(cover=HashCover(depth=3, width=4), beta2=0.99)),
]
