"""The CTC loss as a layer."""

from typing import Any

from shoal.errors import ConfigError
from shoal.ops import ctc
from shoal.ops.nn.loss import Loss
from shoal.ops.shape import swapaxes

__all__ = ["CTCLoss"]


class CTCLoss(Loss):
    """Connectionist temporal classification (Graves et al., 2006): labels without alignment; see `npx.ctc`.

    Args:
        layout: of the predictions: "NTC" (batch, time, classes) or "TNC"; they are scores, no probabilities yet.
        label_layout: of the labels: "NT" or "TN".
        weight: factor on all losses.
        blank_label: the blank is the "last" class, as in Gluon, or the "first".
        zero_infinity: 0, and no gradient, for a label that is too long for its sequence.
    """

    def __init__(
        self,
        layout: str = "NTC",
        label_layout: str = "NT",
        weight: float | None = None,
        blank_label: str = "last",
        zero_infinity: bool = False,
    ) -> None:
        if layout not in ("NTC", "TNC") or label_layout not in ("NT", "TN"):
            raise ConfigError(
                "CTCLoss: layout must be 'NTC' or 'TNC', and label_layout 'NT' or 'TN', "
                f"got {layout!r} and {label_layout!r}"
            )
        super().__init__(weight, label_layout.index("N"))
        self.layout, self.label_layout = layout, label_layout
        self.blank_label, self.zero_infinity = blank_label, zero_infinity

    def forward(
        self, pred: Any, label: Any, pred_lengths: Any = None, label_lengths: Any = None, sample_weight: Any = None
    ) -> Any:
        """Losses, one per sample.

        Args:
            pred: scores of the classes.
            label: classes, padded with -1 (0 with the blank first) if there are no ``label_lengths``.
            pred_lengths, label_lengths: (batch,), how long each sequence and label is.
            sample_weight: (batch,), factors.
        """
        data = swapaxes(pred, 0, 1) if self.layout == "NTC" else pred
        label = swapaxes(label, 0, 1) if self.label_layout == "TN" else label
        losses = ctc.ctc_loss(
            data,
            label,
            pred_lengths,
            label_lengths,
            pred_lengths is not None,
            label_lengths is not None,
            self.blank_label,
            self.zero_infinity,
        )
        if sample_weight is not None:
            losses = losses * sample_weight
        return losses if self.weight_ is None else losses * float(self.weight_)
