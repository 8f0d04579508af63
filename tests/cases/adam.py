from memopt_ref.rules.adam import Adam, AdamW
from tests.table import Case

CASES = [
    Case("adam", Adam()),
    Case("adam-eps-hat", Adam(bias_correction="eps_hat", eps=1e-7)),
    Case("adam-bare", Adam(bias_correction="none", eps=0.0, eps_root=1e-6)),
    Case("adamw", AdamW()),
    Case("adamw-independent", AdamW(weight_decay_mode="independent")),
]
