from memopt_ref.rules.ftrl import FTRLProximal
from tests.table import Case

CASES = [
    Case("ftrl", FTRLProximal()),
    Case("ftrl-l1-l2", FTRLProximal(l1=0.5, l2=0.1, beta=0.0)),
    Case("ftrl-keras", FTRLProximal(lr_power=-0.2, initial_accumulator=0.4, l1=0.05, l2_shrinkage=0.02)),
    Case("ftrl-dual-averaging", FTRLProximal(centre="origin")),
    Case("ftrl-dual-averaging-l1", FTRLProximal(centre="origin", l1=0.1, l2=0.1)),
]
