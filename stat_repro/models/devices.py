"""What devices can compute."""

from __future__ import annotations

import torch


def float64_home(device: torch.device) -> torch.device:
    """Where float64 is computed for a model on this device: MPS has none, so there on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device
