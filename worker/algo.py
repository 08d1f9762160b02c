"""One switch for a whole algorithm: which gate, which rule, which strategy, which codec.

========================================  ======================  ==================  ==========================
``--algo``                                gate                    rule                strategy
========================================  ======================  ==================  ==========================
``bsp`` (sync), ``backup:b=1``,           itself
``ksync:k=4``, ``kbatch:k=4``,
``kasync:k=4``, ``fedbuff:k=4``,
``ssp:s=3``, ``essp:s=3``, ``allreduce``
``asgd`` (async, asp, downpour)           asp
``stale``, ``stale:law=sqrt,max=20``      asp, asp:max=20         stale, stale:law=sqrt
``dcasgd``, ``dcasgd:lam=2,adaptive=1``   asp                     dcasgd ...
``local:h=16``, ``average``, ``bmuf``,    bsp                                         itself
``diloco:h=50``
``easgd:tau=8``, ``eamsgd``               asp                                         itself
``async-diloco:h=50`` (dn)                asp                                         itself
========================================  ======================  ==================  ==========================

Each part can be set by itself, too: ``gate=ssp:3 rule=stale codec=bf16``, or ``easgd:tau=8 gate=bsp``. Combinations
that are not sound are refused, with the reason.
"""

from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from shoal.errors import ConfigError, meant
from shoal.kvstore import codecs, rules
from shoal.kvstore.gates import canonical_mode, gate_names, mode_label, parse_gate
from shoal.worker import strategies

__all__ = ["Algo", "Spec"]

_SYNONYMS = {"downpour": "asp"}
_SYNCHRONOUS = ("local", "average", "bmuf", "diloco")


@dataclass(frozen=True)
class Algo:
    """An algorithm by its parts; "" where a part is left to the script or has nothing to do.

    Args:
        gate: who may proceed: a canonical name of `shoal.kvstore.gates`.
        rule: what corrects a contribution: a spec of `shoal.kvstore.rules`.
        strategy: what a worker pushes, and when: a spec of `shoal.worker.strategies`.
        codec: what compresses it, and weights on their way back: what `shoal.kvstore.codecs.Plan.of` reads.
    """

    gate: str = ""
    rule: str = ""
    strategy: str = ""
    codec: str = ""

    def __str__(self) -> str:
        """The text that `parse` reads back: ``gate=asp rule=dcasgd``."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name))

    @classmethod
    def parse(cls, spec: "Spec") -> "Algo":
        """The algorithm that a text describes: a preset, or parts, or a preset and parts that replace its own.

        >>> str(Algo.parse("dcasgd:lam=0.1")), str(Algo.parse("easgd:tau=4 gate=bsp"))
        ('gate=asp rule=dcasgd:lam=0.1', 'gate=bsp strategy=easgd:tau=4')

        Raises:
            ConfigError: a word is not known (what is known is listed), a part is there twice, or the parts do not go
                together.
        """
        if isinstance(spec, Algo):
            return spec.checked()
        if not isinstance(spec, str):
            raise ConfigError(f"an algorithm is text, such as 'ssp:s=3', got {spec!r} ({type(spec).__name__})")
        made, given = cls(), set[str]()
        for i, word in enumerate(spec.split()):
            name, equals, value = word.partition("=")
            if equals and name in ("gate", "rule", "strategy", "codec") and ":" not in name:
                if name in given:
                    raise ConfigError(f"algorithm {spec!r}: {name}= is given twice; say it once")
                given.add(name)
                made = replace(made, **{name: _canonical(name, value)})
            elif i == 0:
                made = _preset(word)
            else:
                raise ConfigError(
                    f"algorithm {spec!r}: expected gate=, rule=, strategy= or codec= after the first word, got {word!r}"
                    f": say which it is, such as codec={word}"
                )
        return made.checked()

    def merged(self, other: "Algo", who: str, whose: str) -> "Algo":
        """This algorithm with the parts of ``other`` that it leaves open.

        Raises:
            ConfigError: both name a part, differently; ``who`` and ``whose`` say who asked for which.
        """
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if mine and theirs and mine != theirs:
                raise ConfigError(
                    f"{who} asks for {f.name} {_shown(f.name, mine)!r}, but {whose} says {_shown(f.name, theirs)!r}. "
                    "Say it in one place."
                )
        open_ = {f.name: getattr(other, f.name) for f in fields(self) if not getattr(self, f.name)}
        return replace(self, **open_).checked()

    def checked(self) -> "Algo":
        """This algorithm, if its parts go together.

        Raises:
            ConfigError: says which do not, why, and what to use instead.
        """
        wrong = self._unsound()
        if wrong:
            raise ConfigError(f"algorithm {str(self)!r} is not sound: {wrong}")
        return self

    def _unsound(self) -> str:
        gate = parse_gate(self.gate) if self.gate else None
        name = strategies.parse(self.strategy).name if self.strategy else "gradient"
        if gate is not None and gate.name == "allreduce" and (self.rule or name != "gradient" or self.codec):
            return "an all-reduce only adds gradients up; rules, strategies and codecs need servers"
        if self.rule and name != "gradient":
            return f"rule {self.rule!r} corrects gradients, and strategy {name!r} pushes differences of weights"
        if self.rule and gate is not None and (gate.rounds or gate.late == "drop"):
            what = f"rule {self.rule!r} corrects what is old, and under gate {mode_label(gate.name)!r} nothing is"
            return f"{what}: leave it out, or use gate async"
        if gate is not None and name in _SYNCHRONOUS and not (gate.rounds or (gate.waits and gate.late == "drop")):
            return (
                f"strategy {name!r} averages the weights of the workers; under gate {mode_label(gate.name)!r} each "
                "would move the model by its whole way. Use gate=bsp, or async-diloco, or easgd"
            )
        if gate is not None and name == "async-diloco" and gate.need != 1:
            return "strategy 'async-diloco' counts contributions one by one: use gate=asp or gate=ssp:S"
        if gate is not None and name in ("easgd", "eamsgd") and (gate.late == "drop" or gate.max_staleness is not None):
            return f"strategy {name!r} moves worker and centre by the same difference; gate {gate.name!r} may drop it"
        return self._unsound_codec(name)

    def _unsound_codec(self, strategy: str) -> str:
        codec = codecs.Plan.of(self.codec).push if self.codec else None
        if codec is not None and codec.gradients_only and strategy != "gradient":
            what = f"codec {codec.name!r} keeps a momentum of gradients; strategy {strategy!r} pushes differences"
            return f"{what}: use topk"
        if codec is not None and codec.name in ("sign", "demo") and self.rule:
            return f"codec {codec.name!r} sends signs or frequencies; rule {self.rule!r} needs the gradient itself"
        return ""


Spec: TypeAlias = str | Algo


def _canonical(part: str, text: str) -> str:
    if part == "gate":
        return canonical_mode(text)
    if part == "rule":
        rule = rules.parse(text)
        return "" if rule is None else rule.spec()
    if part == "strategy":
        strategies.parse(text)
        return text
    return codecs.Plan.of(text).spec()


def _preset(word: str) -> Algo:
    name, _, params = word.partition(":")
    name = _SYNONYMS.get(name.lower(), name.lower())
    text = f"{name}:{params}" if params else name
    if name in gate_names():
        return Algo(gate=canonical_mode(text))
    if name in rules.names():
        words = [w for w in params.split(",") if w]
        limits = [w for w in words if w.startswith("max=")]
        rest = ",".join(w for w in words if w not in limits)
        gate = canonical_mode(":".join(["asp", *limits]))
        return Algo(gate=gate, rule=_canonical("rule", f"{name}:{rest}" if rest else name))
    if name in strategies.names():
        strategies.parse(text)
        return Algo(gate="" if name == "gradient" else "bsp" if name in _SYNCHRONOUS else "asp", strategy=text)
    if name in codecs.names():
        raise ConfigError(f"{word!r} is a codec; say codec={word}, beside an algorithm or without one")
    known = sorted({*gate_names(), *rules.names(), *strategies.names(), *_SYNONYMS})
    raise ConfigError(f"no algorithm is called {name!r}; known: {', '.join(known)}{meant(name, known, 0.5)}")


def _shown(part: str, value: str) -> str:
    return mode_label(value) if part == "gate" else value
