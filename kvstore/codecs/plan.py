"""What a store compresses: gradients on their way to the servers, and weights on their way back."""

from collections.abc import Mapping
from typing import NamedTuple

from shoal.errors import ConfigError
from shoal.kvstore.codecs.base import Codec
from shoal.kvstore.codecs.registry import Spec, parse

__all__ = ["Plan"]


class Plan(NamedTuple):
    """A codec for pushes and one for pulls.

    Args:
        push: encodes gradients.
        pull: encodes weights; the servers keep them in full.
    """

    push: Codec
    pull: Codec

    @classmethod
    def of(cls, params: "Spec | Plan | None") -> "Plan":
        """What `KVStore.set_gradient_compression` was asked for.

        Args:
            params: a codec for pushes in any form that `parse` reads; or ``"topk:ratio=0.01/bf16"``, or a dict with the
                key ``"pull"``, to compress pulls too; None for neither.
        Raises:
            ConfigError: see `parse`; or the codec for pulls is unsound on weights: says why.
        """
        if isinstance(params, Plan):
            return params
        push, pull = _both(params)
        plan = cls(parse("none" if push is None else push), parse("none" if pull is None else pull))
        objection = plan.pull.weights_objection()
        if objection:
            raise ConfigError(f"codec {plan.pull.name!r} cannot compress pulls: {objection}. Use bf16, fp16 or int8.")
        return plan

    def spec(self) -> str:
        """Canonical text, which `of` reads: ``"2bit:threshold=0.5"``, ``"none/bf16"``."""
        return self.push.spec() + ("" if self.pull.name == "none" else f"/{self.pull.spec()}")


def _both(params: Spec | None) -> tuple[Spec | None, Spec | None]:
    if isinstance(params, str):
        push, slash, pull = params.partition("/")
        if slash and not (push.strip() and pull.strip()):
            raise ConfigError(f"compression {params!r}: expected PUSH/PULL, such as '2bit/bf16' or 'none/bf16'")
        return push, pull if slash else None
    if isinstance(params, Mapping):
        push_params = {k: v for k, v in params.items() if k != "pull"}
        return push_params or None, params.get("pull")
    return params, None
