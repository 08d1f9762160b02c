"""``shoal graph``: a model's graph, before and after the passes that hybridized models go through."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.ops.graph.show import Pair

__all__ = ["add_command", "graph"]


def add_command(commands: Any) -> None:
    """Add ``shoal graph`` to the commands of a parser."""
    text = "Show a model's graph before and after the compiler's passes."
    parser = commands.add_parser("graph", help=text, description=text, allow_abbrev=False)
    parser.set_defaults(act=graph)
    parser.add_argument(
        "model", metavar="MODEL", help="mlp, lenet, resnet20, lstm or gpt, or a file that HybridBlock.export wrote"
    )
    parser.add_argument("--svg", metavar="FILE", help="draw both graphs there instead of printing them")
    parser.add_argument("--counts", action="store_true", help="print only how often each operator is called")
    parser.add_argument("--forward", action="store_true", help="without the gradient, in predict mode")
    parser.add_argument("--passes", metavar="CHOICE", help="all, none, names, or -name for all others (default: all)")


def graph(options: argparse.Namespace) -> int:
    """Print or draw."""
    pair = _pair(options.model, options.passes, gradient=not options.forward)
    if options.svg:
        pair.write_svg(options.svg)
        print(f"{options.svg}: {options.model}, before and after")
    else:
        print(pair.table() if options.counts else pair.text())
    return 0


def _pair(model: str, passes: str | None, *, gradient: bool) -> "Pair":
    from shoal.ops.graph import serialize, show, trace
    from shoal.ops.nn.initializer import Xavier
    from shoal.worker import zoo

    if model in zoo.MODELS:
        net, inputs, _ = zoo.build(model)
        net.initialize(Xavier())
        with trace.mode(training=gradient):
            found: Any = net.trace(inputs)
        return show.pair(found, passes, gradient=gradient)
    if not Path(model).exists():
        raise ConfigError(f"{model!r} is neither a file nor one of {', '.join(zoo.MODELS)}")
    return show.pair_of_graph(serialize.read(model).graph, passes)
