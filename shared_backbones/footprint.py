"""Counted memory: the most bytes that tensors made by a function hold at once. Nothing is sampled, so it repeats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class _Live(TorchDispatchMode):
    """Keeps a weak reference to every storage that an operation makes, and the largest sum of those alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}  # address of the storage -> it, bytes
        self.held = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_address(t) for t in _tensors((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._made(tensor, given)
        return out

    def _made(self, tensor: torch.Tensor, given: set[int]) -> None:
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            return
        storage, address = tensor.untyped_storage(), _address(tensor)
        if address in self.sizes and not self.sizes[address][0].expired():
            return
        if address in given and address not in self.sizes:
            return  # an argument in another view: it was there before
        for old in [a for a, (reference, _) in self.sizes.items() if reference.expired()]:
            self.held -= self.sizes.pop(old)[1]
        self.sizes[address] = StorageWeakRef(storage), storage.nbytes()
        self.held += storage.nbytes()
        self.most = max(self.most, self.held)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def peak_bytes(run: Callable[[], Any]) -> int:
    """Largest sum of bytes of the tensors that ``run`` makes and that are alive at once.

    Arguments and parameters that were there before are not in it, nor what a kernel keeps to itself while it runs.
    """
    with _Live() as live:
        run()
    return live.most
