"""Why the scheduler does not take somebody in, in words."""

from shoal.kvstore.wire.messages import Join, Member
from shoal.scheduler.log import describe

__all__ = ["forgotten", "lost_text", "other_version", "silence_text", "stranger_text", "too_few_text"]


def lost_text(m: Member, lease_s: float) -> str:
    """To a process whose place has been given up, or taken by another one."""
    if m.role == "server":
        return f"{describe(m)} was taken for dead, and another process may have its place: it must not go on."
    silent = f"{describe(m)} was silent for longer than its lease of {lease_s:g} s"
    return f"{silent}, and its place was given up. Start it again."


def forgotten(m: Join) -> str:
    """To one that has been a member, and is none by this log; empty if it has not been one."""
    if not m.incarnation:
        return ""
    return (
        f"{m.role} {m.rank} (host {m.host}, pid {m.pid}) is a member of this run, but the scheduler's log does not "
        "know it: it is not the whole log of the run. Start the scheduler with the state directory that it had."
    )


def other_version(m: Join, version: str) -> str:
    """To one that runs another version; empty if it is ``version``."""
    if m.version == version:
        return ""
    return (
        f"{m.role} (host {m.host}, pid {m.pid}) runs shoal {m.version}, the scheduler runs {version}: install one "
        "version on every machine"
    )


def stranger_text(kind: str, run: str, cluster: str) -> str:
    """To one that is no member of run ``cluster``, and perhaps one of ``run``, on its message of this kind."""
    of = f", which belongs to run {run}; this is run {cluster}" if run else ""
    return (
        f"the scheduler does not know the sender of this {kind}{of}: it has been restarted, or another run has taken "
        "its address. Start the run again."
    )


def silence_text(silent_s: float, lease_s: float) -> str:
    """Why somebody is lost."""
    return f"silent for {silent_s:.1f} s, with a lease of {lease_s:g} s: killed, stopped, or cut off from the network"


def too_few_text(timeout_s: float, here: int, missing: int) -> str:
    """Why a run does not begin."""
    return (
        f"did not join within {timeout_s:g} s ({here} of {here + missing} joined): see why they did not start, or "
        "whether they reach the scheduler"
    )
