from memopt_ref.rules.amsgrad import AMSGrad
from tests.table import Case

CASES = [
    Case("amsgrad", AMSGrad()),
    Case("amsgrad-torch", AMSGrad(form="torch", eps=1e-8)),
    Case("amsgrad-optax", AMSGrad(form="optax", eps=1e-8, eps_root=1e-10)),
    Case("amsgrad-keras", AMSGrad(form="keras", eps=1e-7)),
]
