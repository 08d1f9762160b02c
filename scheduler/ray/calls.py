"""The few things that are asked of Ray; the only module that imports it.

`Calls` is what `shoal.scheduler.ray.machines` needs; tests have another one, without Ray.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from shoal.errors import ConfigError
from shoal.scheduler.job import JobConfig, OnLine, OnSnapshot, Outcome
from shoal.scheduler.ray.afar import Overseer
from shoal.scheduler.ray.host import Host, HostConfig
from shoal.scheduler.ray.notices import Notice
from shoal.scheduler.ray.plan import Group

__all__ = ["Calls", "HostActor", "RayCalls", "connect", "import_ray"]

ABSENT = "Ray is not installed here: pip install 'shoal[ray]'"

HEAD = "node:__internal_head__"
"""Resource that the head of a cluster has."""


class Calls(Protocol):
    """Of one run. Handles, groups and references are Ray's own, and only handed back."""

    def nodes(self) -> list[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        """Id, all resources and labels of each machine that is alive."""

    def free(self) -> list[Mapping[str, float]]:
        """Of each machine, the resources that nobody has."""

    def group(self, group: Group, need: Mapping[str, float], labels: Mapping[str, str]) -> Any:
        """Ask for a placement group."""

    def placed(self, group: Any) -> bool:
        """Whether it has all its bundles."""

    def actor(
        self,
        config: HostConfig,
        need: Mapping[str, float],
        *,
        bundle: tuple[Any, int] | None = None,
        labels: Mapping[str, str] | None = None,
        here: bool = False,
    ) -> Any:
        """Ask for a host: in a bundle, on a machine with these labels, or on the launcher's."""

    def call(self, handle: Any, method: str, *args: Any) -> Any:
        """A reference to what the method will answer."""

    def wait(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those that have answered, or failed."""

    def get(self, reference: Any) -> Any:
        """The answer.

        Raises:
            ConnectionError: the host, or its machine, is gone or cannot be reached.
            ConfigError: it could not be made at all.
        """

    def end(self, handle: Any) -> None:
        """End a host for good."""

    def dissolve(self, group: Any) -> None:
        """Give up a placement group."""


class HostActor(Host):
    """A `Host` as Ray makes it on a machine."""

    def __init__(self, config: HostConfig) -> None:
        ray = import_ray()
        node = ray.get_runtime_context().get_node_id()
        super().__init__(config, ray.util.get_node_ip_address(), node, lambda: _draining(node))
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda number, frame: self._told_to_end(before))

    def _told_to_end(self, before: Any) -> None:
        def end() -> None:
            self.leave()
            os._exit(0)

        signal.signal(signal.SIGTERM, before if callable(before) else signal.SIG_DFL)
        threading.Thread(target=end, daemon=True).start()


class OverseerActor(Overseer):
    """An `Overseer` as Ray makes it on the head of a cluster."""

    def __init__(self, job: JobConfig, options: Any) -> None:
        from shoal.scheduler.ray.machines import RayMachines
        from shoal.scheduler.run import carry_out

        ray = import_ray()

        def launch(on_line: OnLine, on_snapshot: OnSnapshot, stop: list[Callable[[int], None]]) -> Outcome:
            machines = RayMachines(job, options, RayCalls(ray), on_line)
            return carry_out(job, machines, on_line, on_snapshot, stop=stop)

        super().__init__(launch)


def _draining(node: str) -> Notice | None:
    """What Ray says of this machine; a part of it that it does not promise to keep."""
    from ray._private.state import state

    asked = getattr(state, "get_draining_nodes", None)
    deadline = (asked() if asked is not None else {}).get(node)
    if deadline is None:
        return None
    deadline_ms = getattr(deadline, "deadline_timestamp_ms", deadline)
    left_s = deadline_ms / 1000 - time.time() if isinstance(deadline_ms, int) and deadline_ms else 30.0
    return Notice(max(0.0, left_s), "Ray drains its node")


def import_ray() -> Any:
    """Ray itself.

    Raises:
        ConfigError: it is not installed, or cannot be loaded.
    """
    try:
        import ray
        import ray.util
    except ImportError as e:
        raise ConfigError(ABSENT if e.name == "ray" else f"Ray cannot be loaded: {e}") from e
    return ray


def connect(address: str, working_dir: str, cpus: int, say: Callable[[str], None]) -> tuple[Any, bool, bool]:
    """Be in a Ray cluster.

    Args:
        address: "" for the one that this process is in, ``$RAY_ADDRESS`` names or this machine has; if there is none,
            one is started here, for as long as the run lasts.
        cpus: that the run needs: one that is started here has no fewer.
        working_dir: directory that Ray brings to the machines; "" if it is there.
    Returns:
        Ray, whether this process has come into the cluster just now, and whether Ray brings a directory along.
    Raises:
        ConfigError: there is none, or it lets nobody in.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray, False, _ships(ray)
    environment = {"runtime_env": {"working_dir": working_dir}} if working_dir else {}
    quiet = {"log_to_driver": False, "logging_level": "warning"}
    try:
        try:
            ray.init(address=address or "auto", **environment, **quiet)
        except ConnectionError:
            if address or os.environ.get("RAY_ADDRESS"):
                raise
            say("there is no Ray cluster here: one is started on this machine, for this run")
            here = max(os.cpu_count() or 1, cpus)
            ray.init(include_dashboard=False, num_cpus=here, **environment, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as e:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise ConfigError(f"no way into the Ray cluster at {where}: {_first(e)}") from e
    return ray, True, _ships(ray)


def _ships(ray: Any) -> bool:
    with suppress(Exception):  # a client has no such context
        return bool(ray.get_runtime_context().runtime_env.get("working_dir"))
    return False


def _first(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


class RayCalls:
    """`Calls` to Ray.

    Args:
        ray: the module, in a cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        from ray.util import placement_group, remove_placement_group, scheduling_strategies

        self._group, self._remove, self._strategies = placement_group, remove_placement_group, scheduling_strategies

    def nodes(self) -> list[tuple[str, Mapping[str, float], Mapping[str, str]]]:
        """See `Calls`."""
        return [(n["NodeID"], n["Resources"], n.get("Labels") or {}) for n in self._ray.nodes() if n["Alive"]]

    def free(self) -> list[Mapping[str, float]]:
        """See `Calls`; one that Ray does not promise to keep, so that without it nothing is free."""
        from ray._private.state import available_resources_per_node

        with suppress(Exception):
            alive = {node for node, _, _ in self.nodes()}
            return [free for node, free in available_resources_per_node().items() if node in alive]
        return []

    def group(self, group: Group, need: Mapping[str, float], labels: Mapping[str, str]) -> Any:
        """See `Calls`."""
        bundles = [dict(need)] * len(group.slots)
        selector = {"bundle_label_selector": [dict(labels)] * len(bundles)} if labels else {}
        return self._group(bundles, strategy=group.strategy, **selector)

    def placed(self, group: Any) -> bool:
        """See `Calls`."""
        return bool(group.wait(0.05))

    def actor(
        self,
        config: HostConfig,
        need: Mapping[str, float],
        *,
        bundle: tuple[Any, int] | None = None,
        labels: Mapping[str, str] | None = None,
        here: bool = False,
    ) -> Any:
        """See `Calls`. A host is always made again, and what was asked of it is never repeated."""
        others = {name: amount for name, amount in need.items() if name not in ("CPU", "GPU")}
        options: dict[str, Any] = {
            "num_cpus": need.get("CPU", 0),
            "num_gpus": need.get("GPU", 0),
            "resources": others,
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": 8,
        }
        if bundle is not None:
            options["scheduling_strategy"] = self._strategies.PlacementGroupSchedulingStrategy(*bundle)
        elif here:
            here_is = self._ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = self._strategies.NodeAffinitySchedulingStrategy(here_is, soft=False)
        elif labels:
            options["label_selector"] = dict(labels)
        return self._ray.remote(HostActor).options(**options).remote(config)

    def overseer(self, job: JobConfig, options: Any) -> Any:
        """An actor on the cluster's head that watches over a run."""
        place = {"num_cpus": 0, "resources": {HEAD: 0.001}, "max_concurrency": 4}
        return self._ray.remote(OverseerActor).options(**place).remote(job, options)

    def call(self, handle: Any, method: str, *args: Any) -> Any:
        """See `Calls`."""
        return getattr(handle, method).remote(*args)

    def wait(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """See `Calls`."""
        first, rest = self._ray.wait(list(references), num_returns=1, timeout=timeout_s)
        more = self._ray.wait(rest, num_returns=len(rest), timeout=0)[0] if first and rest else []
        return [*first, *more]

    def get(self, reference: Any) -> Any:
        """See `Calls`."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.ActorDiedError as e:
            text = str(e)
            if "creation task" in text or "failed to import" in text or "No module named" in text:
                line = next((x for x in reversed(text.strip().splitlines()) if x.strip()), "")
                raise ConfigError(f"Ray cannot make shoal's actors: {line.strip()}") from e
            raise ConnectionError(_first(e)) from e
        except (errors.RayActorError, errors.GetTimeoutError, errors.ObjectLostError) as e:
            raise ConnectionError(_first(e)) from e
        except errors.RuntimeEnvSetupError as e:
            raise ConfigError(f"Ray cannot prepare the working directory: {_first(e)}") from e
        except errors.RayError as e:
            if "No module named 'shoal" in str(e):
                raise ConfigError("the cluster's machines have no shoal: install shoal[ray] in their image") from e
            raise ConfigError(f"Ray says: {_first(e)}") from e

    def end(self, handle: Any) -> None:
        """See `Calls`."""
        with suppress(Exception):  # it may be gone
            self._ray.kill(handle, no_restart=True)

    def dissolve(self, group: Any) -> None:
        """See `Calls`."""
        with suppress(Exception):
            self._remove(group)
