"""Networks that measure faces. They are trained on rendered truth and never used as a loss."""

from training.instruments.aligner import train_aligner
from training.instruments.probe import train_probe

__all__ = ["train_aligner", "train_probe"]
