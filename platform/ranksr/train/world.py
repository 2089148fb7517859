"""The workers of one training, as plain values and three collective calls; nothing here knows Ray."""

import dataclasses

import torch
import torch.distributed
from torch import nn


@dataclasses.dataclass(frozen=True)
class World:
    worker_rank: int = 0
    num_workers: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        return self.worker_rank == 0

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network on its device, its gradients averaged over the workers.

        Buffers are not synchronised in forward: the discriminator runs forward twice before one backward, and
        that would change batch-norm buffers which autograd still needs (pytorch#175024).
        """
        network = network.to(self.device)
        if self.num_workers == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over the workers, of the same keys on each."""
        if self.num_workers == 1 or not values:
            return values
        total = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return {key: float(value) / self.num_workers for key, value in zip(sorted(values), total, strict=True)}

    def total(self, sums: dict[str, tuple[float, int]]) -> dict[str, float]:
        """Means over all workers of values that each counted by itself: {key: (sum, count)} to {key: mean}."""
        flat = {
            f"{part}/{key}": float(value) for key, pair in sums.items() for part, value in zip("sn", pair, strict=True)
        }
        averaged = self.mean(flat)
        return {
            key: averaged[f"s/{key}"] / averaged[f"n/{key}"] if averaged[f"n/{key}"] else float("nan") for key in sums
        }


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without the wrapper that averages gradients."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
