"""Train the digits network synchronously, then asynchronously, on a local cluster, and compare.

python examples/async_vs_sync.py                      2 workers, 2 servers, sync and async
python examples/async_vs_sync.py --modes sync,ssp:3,async --workers 4
python examples/async_vs_sync.py --algo sync --algo dcasgd --algo easgd:tau=8 --algo "diloco:h=50 codec=bf16"
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from shoal.lab.compare import show

DIGITS = Path(__file__).with_name("digits.py")


def run(algo: str, args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One run through the `shoal run` command; its report."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", str(args.workers), "-s", str(args.servers), "--algo", algo]
    command += ["--target", f"accuracy={args.target}", "--seed", str(args.seed), "--report", str(report)]
    command += [str(DIGITS), "--epochs", str(args.epochs)]
    print(f"\n$ shoal {shlex.join(command[3:])}", flush=True)
    code = subprocess.run(command).returncode
    if code != 0:
        sys.exit(code)
    loaded: dict[str, object] = json.loads(report.read_text())
    return loaded


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
    with tempfile.TemporaryDirectory() as folder:
        algos = args.algo or [mode.strip() for mode in args.modes.split(",")]
        reports = [run(algo, args, Path(folder)) for algo in algos]
    show(reports)


if __name__ == "__main__":
    main()
