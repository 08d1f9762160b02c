"""Programs that stand for ssh and srun: they run what they are given here, in folders of the hosts' own."""

import os
import stat
import sys
from pathlib import Path

__all__ = ["FarHosts"]

SSH = """#!{python}
import os, sys
words, port = sys.argv[1:], ""
while words and words[0].startswith("-"):
    flag = words.pop(0)
    if flag == "-G":
        print("user somebody\\nhostname 127.0.0.1")
        sys.exit(0)
    if flag in ("-o", "-p", "-F", "-i", "-l"):
        words.pop(0)
host, command = words[0].rpartition("@")[2], " ".join(words[1:])
home = os.path.join({homes!r}, host)
if not os.path.isdir(home):
    sys.exit(print(f"ssh: connect to host {{host}} port 22: No route to host", file=sys.stderr) or 255)
os.chdir(home)
env = dict(os.environ, HOME=home, PATH=os.environ["PATH"] if {rsync!r} else {bare!r})
os.execvpe("/bin/sh", ["sh", "-c", command], env)
"""

SRUN = """#!{python}
import os, sys
words, said = sys.argv[1:], {{}}
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    said[name] = value
assert said["--nodes"] == said["--ntasks"] == "1" and "--overlap" in said, said
node = os.path.join({homes!r}, said["--nodelist"])
assert os.path.isdir(node), node
os.chdir(said["--chdir"])
os.environ["NODE"] = said["--nodelist"]
os.execvp(words[0], words)
"""


class FarHosts:
    """Hosts that are folders.

    Args:
        root: an empty folder.
        names: of the hosts.
        rsync: whether they have it.
    """

    def __init__(self, root: Path, names: str, rsync: bool = True) -> None:
        self.homes, self.bin, bare = root / "homes", root / "bin", root / "bare"
        for name in names.split():
            (self.homes / name).mkdir(parents=True)
        self.bin.mkdir()
        bare.mkdir()
        for tool in ("mkdir", "tar", "gzip", "env", "sh", "cat"):
            (bare / tool).symlink_to(f"/bin/{tool}" if os.path.exists(f"/bin/{tool}") else f"/usr/bin/{tool}")
        facts = {"python": sys.executable, "homes": str(self.homes), "rsync": rsync, "bare": str(bare)}
        for name, text in (("ssh", SSH), ("srun", SRUN)):
            program = self.bin / name
            program.write_text(text.format(**facts))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def path(self) -> str:
        """For PATH: these programs before the others."""
        return f"{self.bin}{os.pathsep}{os.environ['PATH']}"

    def copies(self, host: str) -> list[Path]:
        """What was copied to a host, from its job's directory."""
        jobs = self.homes / host / ".shoal" / "jobs"
        return sorted(p.relative_to(d) for d in jobs.iterdir() for p in d.rglob("*") if p.is_file())
