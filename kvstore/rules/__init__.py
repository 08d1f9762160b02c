"""Rules: how a contribution is corrected before the update, by name."""

from shoal.kvstore.rules.base import CellView, Part, Rule
from shoal.kvstore.rules.delay import DCASGD, Stale
from shoal.kvstore.rules.registry import names, parse, register

__all__ = ["DCASGD", "CellView", "Part", "Rule", "Stale", "names", "parse", "register"]
