"""What devices can compute, and the memory that they have left."""

import torch


def float64_home(device: torch.device) -> torch.device:
    """Where float64 is computed for a model on this device: MPS has none, so there on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def spare_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that nothing uses, its allocator's cache included; elsewhere 0."""
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
