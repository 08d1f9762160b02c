"""Train the digits network synchronously, then asynchronously, on a local cluster, and compare.

python examples/async_vs_sync.py                      2 workers, 2 servers, sync and async
python examples/async_vs_sync.py --modes sync,ssp:3,async --workers 4
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from shoal.lab.compare import show

DIGITS = Path(__file__).with_name("digits.py")


def run(mode: str, args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One run through the `shoal run` command; its report."""
    report = folder / f"{mode.replace(':', '-')}.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", str(args.workers), "-s", str(args.servers), "--mode", mode]
    command += ["--target", f"accuracy={args.target}", "--seed", str(args.seed), "--report", str(report)]
    command += [str(DIGITS), "--epochs", str(args.epochs)]
    print(f"\n$ shoal {' '.join(command[3:])}", flush=True)
    code = subprocess.run(command).returncode
    if code != 0:
        sys.exit(code)
    loaded: dict[str, object] = json.loads(report.read_text())
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="sync,async", help="comma-separated: sync, async, ssp:S")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--target", type=float, default=0.97, help="accuracy whose time is measured")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reports = [run(mode.strip(), args, Path(folder)) for mode in args.modes.split(",")]
    show(reports)


if __name__ == "__main__":
    main()
