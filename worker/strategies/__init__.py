"""What a worker does with its gradients between the store's updates. ``docs/strategies.md`` compares them.

>>> str(parse("diloco:h=50"))
'diloco:h=50,lr=0.7,mu=0.9,reset=false'
>>> names()
['async-diloco', 'average', 'bmuf', 'diloco', 'dn', 'eamsgd', 'easgd', 'gradient', 'local']
"""

from shoal.worker.strategies.base import Snapshot, Stepper, Strategy
from shoal.worker.strategies.blocks import BMUF, BlockStepper, DiLoCo, Local
from shoal.worker.strategies.delayed import AsyncDiLoCo
from shoal.worker.strategies.elastic import EAMSGD, EASGD
from shoal.worker.strategies.gradient import Gradient
from shoal.worker.strategies.momentum import lag_matched_momentum
from shoal.worker.strategies.registry import Spec, names, parse, register
from shoal.worker.strategies.site import Site, States

__all__ = [
    "BMUF",
    "EAMSGD",
    "EASGD",
    "AsyncDiLoCo",
    "BlockStepper",
    "DiLoCo",
    "Gradient",
    "Local",
    "Site",
    "Snapshot",
    "Spec",
    "States",
    "Stepper",
    "Strategy",
    "lag_matched_momentum",
    "names",
    "parse",
    "register",
]
