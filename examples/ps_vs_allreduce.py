"""Train the digits network with a parameter server, then by all-reduce, and compare.

python examples/ps_vs_allreduce.py                          2 workers; 1 server, then none
python examples/ps_vs_allreduce.py --workers 4 --servers 2
"""

import argparse
from pathlib import Path

from shoal.lab.compare import run, show

DIGITS = Path(__file__).with_name("digits.py")


def links(workers: int, servers: int) -> str:
    """What a step moves over the busiest link, one way, in sizes of the model."""
    busiest = max(1.0, workers / servers)
    ring = 2 * (workers - 1) / workers
    return (
        f"One way over its busiest link a step moves {busiest:.2f} models with {servers} server(s), {ring:.2f} by "
        "all-reduce (never more than 2)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.97, help="accuracy whose time is measured")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cluster = ["-n", str(args.workers), "--seed", str(args.seed)]
    script = ["--target", f"accuracy={args.target}", str(DIGITS), "--epochs", str(args.epochs)]
    ways = ["--mode", "sync", "-s", str(args.servers)], ["--mode", "allreduce", "-s", "0"]
    reports = [run(*cluster, *way, *script) for way in ways]
    show(reports)
    print(links(args.workers, args.servers))
    same = len({r["weights_sha256"] for r in reports}) == 1
    print(
        f"The weights are {'the same bits' if same else 'not the same bits: sums of more than two differ by rounding'}."
    )


if __name__ == "__main__":
    main()
