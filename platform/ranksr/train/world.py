"""The workers of one training: placement of networks and batches, collective calls.

Plain values and collective calls; nothing here knows Ray.
"""

import dataclasses
from typing import Any

import torch
import torch.distributed
from torch import nn

from ranksr.config import Compute


@dataclasses.dataclass(frozen=True)
class World:
    worker_rank: int = 0
    num_workers: int = 1
    device: str = "cpu"
    compute: Compute = dataclasses.field(default_factory=Compute)

    @property
    def is_first(self) -> bool:
        return self.worker_rank == 0

    def tune(self) -> None:
        """On a GPU, let cuDNN try its algorithms at each new shape and keep the fastest: sums there have an order of
        their own anyhow."""
        if self.device.startswith("cuda"):
            torch.backends.cudnn.benchmark = True

    def place(self, network: nn.Module) -> nn.Module:
        """The network on its device, in the memory layout and compiled as `compute` says."""
        network = network.to(self.device).to(memory_format=self._layout)  # type: ignore[call-overload]  # torch has it
        if self.compute.compile:
            network.compile()  # in place: the names of its weights stay, and forward() itself stays eager
        return network

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network placed, its gradients averaged over the workers.

        Buffers are not synchronised in forward: the discriminator runs forward twice before one backward, and
        that would change batch-norm buffers which autograd still needs (pytorch#175024).
        """
        network = self.place(network)
        if self.num_workers == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)

    def move(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch on the device, images as float32 in [0, 1] in the memory layout of the networks."""
        return {key: self._move(value) for key, value in batch.items()}

    def _move(self, value: torch.Tensor) -> torch.Tensor:
        memory_format = self._layout if value.dim() == 4 else torch.preserve_format
        moved = value.to(self.device, non_blocking=True, memory_format=memory_format)
        return moved.float().div_(255) if moved.dtype == torch.uint8 else moved

    def pin(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch where a GPU can fetch it while the host goes on."""
        return {key: value.pin_memory() for key, value in batch.items()} if self.device.startswith("cuda") else batch

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.compute.channels_last else torch.preserve_format

    def autocast(self, bf16: bool) -> torch.autocast:
        """Context in which networks run in bfloat16; no effect without `bf16`."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=bf16)

    def share_buffers(self, network: nn.Module) -> None:
        """Give every worker the first one's batch-norm statistics: those that a checkpoint holds."""
        if self.num_workers > 1:
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def share(self, network: nn.Module) -> None:
        """Give every worker the first one's weights and buffers."""
        if self.num_workers > 1:
            for tensor in network.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def all(self, flags: torch.Tensor) -> torch.Tensor:
        """Element by element, whether a bool tensor is true on every worker."""
        if self.num_workers == 1:
            return flags
        least = flags.int()
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        return least.bool()

    def any(self, flag: bool) -> bool:
        """Whether it is true on some worker."""
        return flag if self.num_workers == 1 else not bool(self.all(torch.tensor(not flag, device=self.device)))

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.num_workers > 1:
            torch.distributed.barrier()

    def gather(self, rows: list[Any]) -> list[Any]:
        """The rows of all workers, in the order of the workers, on every worker."""
        if self.num_workers == 1:
            return rows
        found: list[list[Any]] = [[] for _ in range(self.num_workers)]
        torch.distributed.all_gather_object(found, rows)
        return [row for each in found for row in each]

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over the workers, of the same keys on each."""
        if self.num_workers == 1 or not values:
            return values
        total = torch.tensor([values[key] for key in sorted(values)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return {key: float(value) / self.num_workers for key, value in zip(sorted(values), total, strict=True)}


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, without the wrapper that averages gradients."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
