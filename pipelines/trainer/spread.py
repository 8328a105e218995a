"""How training is spread over devices: every device a whole copy (ddp), or a shard of the weights (fsdp).

One seam for the loop: wrap, exchange gradients or not, gather the whole state, put it back, keep a checkpoint and find
it. "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (Zhao et al. 2023), in torch's per-parameter
form, which also runs on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from shared_backbones.block import Block
from shared_backbones.errors import BadRequest

from ..config import TrainConfig
from . import checkpoint, shards
from .checkpoint import Position

State = dict[str, Tensor]


def make_fabric(train: TrainConfig) -> Fabric:
    """One device or many, on one node or on those that ``torchrun`` made known. Products are cast by the objective,
    not by Fabric, which would round targets too.
    """
    accelerator = train.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    # parameters that no loss reaches (a calibration, a mixer replaced by nothing) are no error
    strategy = "ddp_find_unused_parameters_true" if train.devices > 1 else "auto"
    return Fabric(
        accelerator=accelerator,
        devices=train.devices // nodes,
        num_nodes=nodes,
        strategy=strategy,
        precision="32-true",
    )


def recompute(model: nn.Module) -> None:
    """Keep no activation inside a block for backward, but compute it again: less memory for a third more time.

    "Training Deep Nets with Sublinear Memory Cost" (Chen et al. 2016). Weights and results stay the same.
    """
    for block in model.modules():
        if isinstance(block, Block):
            block.forward = partial(recomputed, block.forward, use_reentrant=False)  # type: ignore[method-assign]


@dataclass(frozen=True)
class Spread:
    """Devices that train one model together, each with the whole of it."""

    fabric: Fabric

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The module whose call is a step's forward."""
        return self.fabric.setup_module(objective)

    @contextmanager
    def apart(self, wrapped: nn.Module, on: bool) -> Iterator[None]:
        """Where ``on``, gradients stay on their device: the next part of the same step adds to them."""
        with self.fabric.no_backward_sync(wrapped, enabled=on):  # type: ignore[arg-type]
            yield

    def weights(self, model: nn.Module) -> State:
        """The whole state, on every device; a collective call."""
        return model.state_dict()

    def keep(self, path: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replace the checkpoint at ``path``; a collective call."""
        if self.fabric.is_global_zero:
            checkpoint.save(path, position, model.state_dict(), optimizer.state_dict())

    def found(self, path: Path) -> tuple[Position, State, dict[str, Any]] | None:
        """The checkpoint at ``path`` with whole states, or None where there is none to go on from."""
        return checkpoint.load(path)

    def restore(self, model: nn.Module, weights: State) -> None:
        """Put a whole state back."""
        model.load_state_dict(weights)

    def restore_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Put a whole optimiser state back."""
        optimizer.load_state_dict(state)


class Sharded(Spread):
    """Each device keeps a shard of weights, gradients and optimiser state; a block is whole only while it is used."""

    def wrap(self, objective: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for name, parameter in objective.named_parameters():
            if parameter.ndim == 0:
                name = name.removeprefix("model.")
                raise BadRequest(f"train.strategy=fsdp cannot shard the scalar {name} of this model; use ddp")
        mesh = init_device_mesh(self.fabric.device.type, (self.fabric.world_size,))
        for block in [m for m in objective.modules() if isinstance(m, Block)]:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        return objective

    @contextmanager
    def apart(self, wrapped: Any, on: bool) -> Iterator[None]:
        wrapped.set_requires_gradient_sync(not on)
        yield
        wrapped.set_requires_gradient_sync(True)

    def weights(self, model: nn.Module) -> State:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))  # type: ignore[return-value]

    def keep(self, path: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

        # without a step taken the second call would take one to have something to say, and it would be counted
        state = get_optimizer_state_dict(model, optimizer) if optimizer.state else {}
        shards.save(path.with_name(shards.INDEX), position, get_model_state_dict(model), state, self.fabric)  # type: ignore[arg-type]

    def found(self, path: Path) -> tuple[Position, State, dict[str, Any]] | None:
        return shards.load(path.with_name(shards.INDEX))

    def restore(self, model: nn.Module, weights: State) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))

    def restore_optimizer(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        if state:
            set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))


def spread(fabric: Fabric, train: TrainConfig) -> Spread:
    """What the configuration asks for; on one device there is nothing to shard."""
    return Sharded(fabric) if train.strategy == "fsdp" and fabric.world_size > 1 else Spread(fabric)
