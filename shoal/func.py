"""Transformations of functions, with the names of `torch.func` and JAX: they take a function and return one.

loss = lambda params, x, y: loss_fn(func.functional_call(net, params, x), y).mean()
gradients = func.grad(loss)(params, x, y)
of_each_example = func.vmap(func.grad(loss), (None, 0, 0))(params, x, y)
"""

from shoal.ops.func.call import functional_call, parameters_of
from shoal.ops.func.derive import grad, jvp, value_and_grad, vjp
from shoal.ops.func.jacobians import hessian, hvp, jacfwd, jacobian, jacrev
from shoal.ops.func.mapping import vmap
from shoal.ops.func.remat import checkpoint

__all__ = [
    "checkpoint",
    "functional_call",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "parameters_of",
    "value_and_grad",
    "vjp",
    "vmap",
]
