"""Train the digits network synchronously, then asynchronously, on a local cluster, and compare.

python examples/async_vs_sync.py                      2 workers, 2 servers, sync and async
python examples/async_vs_sync.py --modes sync,ssp:3,async --workers 4
python examples/async_vs_sync.py --algo sync --algo dcasgd --algo easgd:tau=8 --algo "diloco:h=50 codec=bf16"
"""

import argparse
from pathlib import Path

from shoal.lab.compare import compare

DIGITS = Path(__file__).with_name("digits.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="sync,async", help="comma-separated: sync, async, ssp:S")
    parser.add_argument("--algo", action="append", help="instead of --modes: an algorithm; may be repeated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.97, help="accuracy whose time is measured")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cluster = ["-n", str(args.workers), "-s", str(args.servers), "--seed", str(args.seed)]
    script = ["--target", f"accuracy={args.target}", str(DIGITS), "--epochs", str(args.epochs)]
    algos = args.algo or [mode.strip() for mode in args.modes.split(",")]
    compare(algos, cluster, script)


if __name__ == "__main__":
    main()
