"""One switch for gate, rule, strategy and codec."""

from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.worker.algo import Algo


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("bsp", "gate=bsp"),
        ("sync", "gate=bsp"),
        ("backup:b=1", "gate=backup:1"),
        ("ssp:s=3", "gate=ssp:3"),
        ("essp:s=2", "gate=essp:2"),
        ("asgd", "gate=asp"),
        ("downpour", "gate=asp"),
        ("fedbuff:k=4", "gate=fedbuff:4"),
        ("stale", "gate=asp rule=stale"),
        ("stale:law=sqrt,max=20", "gate=asp:max=20 rule=stale:law=sqrt"),
        ("dcasgd", "gate=asp rule=dcasgd"),
        ("dcasgd:lam=2,adaptive=true", "gate=asp rule=dcasgd:lam=2.0,adaptive=true"),
        ("easgd:tau=8", "gate=asp strategy=easgd:tau=8"),
        ("easgd:tau=8 gate=bsp", "gate=bsp strategy=easgd:tau=8"),
        ("local:h=16", "gate=bsp strategy=local:h=16"),
        ("bmuf", "gate=bsp strategy=bmuf"),
        ("diloco:h=50", "gate=bsp strategy=diloco:h=50"),
        ("async-diloco:h=50", "gate=asp strategy=async-diloco:h=50"),
        ("ssp:3 codec=bf16", "gate=ssp:3 codec=bf16"),
        ("gate=ssp:2 rule=stale", "gate=ssp:2 rule=stale"),
        ("codec=none", "codec=none"),
        ("allreduce", "gate=allreduce"),
        ("local:h=4 gate=backup:b=1", "gate=backup:1 strategy=local:h=4"),
        ("", ""),
    ],
)
def test_a_preset_names_a_sound_combination(text: str, parts: str) -> None:
    assert str(Algo.parse(text)) == parts


def test_what_is_printed_reads_back() -> None:
    for text in ("stale:law=sqrt,max=20", "easgd:tau=4 gate=bsp", "ssp:3 codec=topk:ratio=0.1"):
        algo = Algo.parse(text)
        assert Algo.parse(str(algo)) == algo


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bsp rule=dcasgd", "under gate 'sync' nothing is"),
        ("backup:b=1 rule=stale", "corrects what is old"),
        ("diloco:h=5 gate=async", "Use gate=bsp, or async-diloco"),
        ("local:h=5 gate=ssp:2", "averages the weights of the workers"),
        ("async-diloco gate=bsp", "use gate=asp"),
        ("easgd gate=backup:b=1", "may drop it"),
        ("easgd gate=async:max=3", "may drop it"),
        ("local rule=stale", "pushes differences of weights"),
        ("local codec=dgc", "momentum of gradients"),
        ("asgd rule=dcasgd codec=sign", "needs the gradient itself"),
        ("allreduce codec=bf16", "need servers"),
    ],
)
def test_what_is_not_sound_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Algo.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dcasg", "Did you mean 'dcasgd'"),
        ("topk", "say codec=topk"),
        ("bsp ssp:3", "after the first word"),
        ("gate=slow", "unknown mode"),
        ("rule=slow", "no rule is called"),
        ("strategy=slow", "slow"),
        ("codec=slow", "no codec is called"),
        ("ssp:s=x", "takes a whole number from 0, such as ssp:2"),
        ("dcasgd:mu=1", "known: lam"),
        ("local:tau=3", "tau"),
        ("sync codec=bf16 codec=int8", "codec= is given twice"),
        (3, r"an algorithm is text, such as 'ssp:s=3', got 3 \(int\)"),
    ],
)
def test_what_is_not_known_says_what_is(text: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Algo.parse(text)


def test_what_the_script_leaves_open_the_run_decides() -> None:
    merged = Algo.parse("strategy=local:h=4").merged(Algo.parse("gate=bsp codec=bf16"), "the script", "the run")
    assert str(merged) == "gate=bsp strategy=local:h=4 codec=bf16"


def test_script_and_run_must_not_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"the script asks for gate 'async', but --algo says 'sync'"):
        Algo.parse("asgd").merged(Algo.parse("bsp"), "the script", "--algo")


def test_parts_that_meet_must_go_together() -> None:
    with pytest.raises(ConfigError, match="not sound"):
        Algo.parse("strategy=diloco").merged(Algo.parse("asgd"), "the script", "--algo")
