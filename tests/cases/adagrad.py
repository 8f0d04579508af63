from memopt_ref.rules.adagrad import AdaGrad
from memopt_ref.rules.adagrad_forms import AdaGradNorm, FullMatrixAdaGrad, RowWiseAdaGrad
from tests.table import Case

CASES = [
    Case("adagrad", AdaGrad()),
    Case("adagrad-eps", AdaGrad(eps=1e-10, weight_decay=0.01)),
    Case("adagrad-inside", AdaGrad(eps_root=1e-7, initial_accumulator=0.1)),
    Case("adagrad-norm", AdaGradNorm(eps=1e-8)),
    Case("adagrad-norm-start", AdaGradNorm(eps_root=1e-8, initial_accumulator=0.5)),
    Case("row-wise-adagrad", RowWiseAdaGrad()),
    Case("row-wise-adagrad-sum", RowWiseAdaGrad(reduce="sum", eps=1e-8, initial_accumulator=0.1)),
    Case("full-matrix-adagrad", FullMatrixAdaGrad()),
    Case("full-matrix-adagrad-delta", FullMatrixAdaGrad(eps=1e-3)),
    Case("full-matrix-adagrad-ridge", FullMatrixAdaGrad(eps_root=1e-4)),
]
