"""Gradient compression: what a worker sends instead of a gradient. ``docs/codecs.md`` compares them."""

from shoal.kvstore.codecs.base import Address, Codec, CodecState
from shoal.kvstore.codecs.blockwise import Blockwise, Part, Place
from shoal.kvstore.codecs.compressor import Compressor, Landing, whole_rows
from shoal.kvstore.codecs.cost import Cost, Link, pays
from shoal.kvstore.codecs.encoded import Encoded, Encoding, Span
from shoal.kvstore.codecs.frequency import DeMo
from shoal.kvstore.codecs.levels import QSGD, Int8
from shoal.kvstore.codecs.lowrank import PowerSGD
from shoal.kvstore.codecs.plain import BF16, FP16, Uncompressed
from shoal.kvstore.codecs.plan import Plan
from shoal.kvstore.codecs.registry import Spec, names, parse, register
from shoal.kvstore.codecs.replies import Codecs, Replies
from shoal.kvstore.codecs.signs import EFSign, OneBit, OneBitMean, Sign, TwoBit, vote
from shoal.kvstore.codecs.sparse import DGC, RandomK, TopK
from shoal.kvstore.codecs.switch import Switch

__all__ = [
    "BF16",
    "DGC",
    "FP16",
    "QSGD",
    "Address",
    "Blockwise",
    "Codec",
    "CodecState",
    "Codecs",
    "Compressor",
    "Cost",
    "DeMo",
    "EFSign",
    "Encoded",
    "Encoding",
    "Int8",
    "Landing",
    "Link",
    "OneBit",
    "OneBitMean",
    "Part",
    "Place",
    "Plan",
    "PowerSGD",
    "RandomK",
    "Replies",
    "Sign",
    "Span",
    "Spec",
    "Switch",
    "TopK",
    "TwoBit",
    "Uncompressed",
    "names",
    "parse",
    "pays",
    "register",
    "vote",
    "whole_rows",
]
