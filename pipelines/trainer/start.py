"""Training that starts from another run: whose weights, which of them fit, and a lower rate for the layers below.

``train.start`` names a run. Once the task has built and initialised its own model, what has the same name and shape
there takes the run's values: that is pretraining and fine-tuning, and going on with newer data. ``train.layer_decay``
lets the rate fall from block to block away from the head: "BEiT: BERT Pre-Training of Image Transformers" (Bao et al.
2022), "Masked Autoencoders Are Scalable Vision Learners" (He et al. 2022).
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from domains.public import sha256_of
from domains.task import Audit, Manifest, Split
from shared_backbones.backbone import Backbone, UNet
from shared_backbones.block import Block
from shared_backbones.errors import BadInput, BadRequest

if TYPE_CHECKING:
    from ..config import RunConfig, TrainConfig

log = logging.getLogger("cambium.train")
# whose buffers are state that training moves or that weights rest on; a task's own buffers are statistics of its data
_STATE_OF = ("torch.nn.", "shared_backbones.norms", "shared_backbones.mixers")
_NAMED = 6  # tensors that a message names


def pinned(config: RunConfig, root: Path) -> RunConfig:
    """The request with the place and the digest of the run that it starts from; itself where it starts from none.

    Raises BadRequest where there is no such run, where its weights have changed since it was trained, or where they are
    not those whose digest the request gives.
    """
    from ..predict import find_model
    from ..runs import WEIGHTS, read_meta

    train = config.train
    if train.start is None:
        if train.start_sha256 is not None:
            raise BadRequest("option 'train.start_sha256' is given, and 'train.start' names no run")
        return config
    try:
        folder = find_model(train.start, root).resolve()
        meta = read_meta(folder)
        digest = _same(folder, sha256_of(folder / WEIGHTS), meta, train.start_sha256)
    except (BadRequest, BadInput, OSError) as error:
        raise BadRequest(f"option 'train.start': {error}") from None
    return config.model_copy(update={"train": train.model_copy(update={"start": str(folder), "start_sha256": digest})})


def _same(folder: Path, got: str, meta: Mapping[str, Any], expected: str | None) -> str:
    """The digest of a run's weights. Raises BadRequest where the run itself, or the request, names another one."""
    if got != meta["weights_sha256"]:
        raise BadRequest(f"the weights of {folder} have changed since training: sha256 {got}; train that run again")
    if expected not in (None, got):
        raise BadRequest(
            f"the weights of {folder} have sha256 {got}, and the request was made for {expected}: the run was "
            "replaced. Ask again without 'train.start_sha256' to start from what is there now"
        )
    return got


def _startable(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and the running statistics and frozen draws of norms and mixers, by name."""
    yield from model.named_parameters()
    kept = set(model.state_dict())
    for place, module in model.named_modules():
        if type(module).__module__.startswith(_STATE_OF):
            for name, value in module.named_buffers(place, recurse=False):
                if name in kept:
                    yield name, value


def take(model: nn.Module, train: TrainConfig) -> dict[str, Any] | None:
    """Give ``model`` the values of the run that a pinned request starts from; returns what was taken, None for none.

    Statistics that the task fitted on its own data stay. Raises BadRequest where the run was replaced meanwhile, or
    where nothing of it fits.
    """
    if train.start is None:
        return None
    from safetensors.torch import load

    from ..runs import WEIGHTS, read_meta

    folder = Path(train.start)
    try:
        meta = read_meta(folder)
        content = (folder / WEIGHTS).read_bytes()
        _same(folder, hashlib.sha256(content).hexdigest(), meta, train.start_sha256)
        there = load(content)
    except (BadRequest, BadInput, OSError) as error:
        raise BadRequest(f"option 'train.start': {error}") from None
    adopt = getattr(model, "adopt", None)  # an optional method of a model: what it makes of another's tensors
    held, there = there, adopt(there) if adopt else there
    taken, left = [], {}
    with torch.no_grad():
        for name, value in _startable(model):
            other = there.get(name)
            if other is None:
                left[name] = "made from the new data" if name in held else "not in that run"
            elif other.shape != value.shape:
                left[name] = f"has shape {list(other.shape)} there and {list(value.shape)} here"
            else:
                value.copy_(other)
                taken.append(name)
    parameters = {name for name, _ in model.named_parameters()}
    facts = {
        "run": meta["run"],
        "task": meta["task"],
        "preset": meta["config"]["preset"],
        "sha256": train.start_sha256,
        "data_sha256": meta.get("data_sha256"),
        "split": meta.get("split"),
        "taken": len(taken),
        "of": len(taken) + len(left),
        "left": left,
        "layer_decay": train.layer_decay,
    }
    if not parameters & set(taken):
        raise BadRequest(_nothing(folder, facts, there))
    said = f"{meta['task']}): {len(taken)} of {facts['of']} tensors{_left(left)}"
    log.info("started from run %s (%s", meta["run"], said)
    return facts


def _nothing(folder: Path, facts: Mapping[str, Any], there: Mapping[str, Tensor]) -> str:
    why = [f"{name} {reason}" for name, reason in list(facts["left"].items())[:_NAMED]]
    return (
        f"option 'train.start': no parameter of run {folder} ({facts['task']}, preset {facts['preset']}) has the name "
        f"and the shape of one here, so nothing would be taken: {'; '.join(why)}. That run holds "
        f"{', '.join(list(there)[:_NAMED])} and so on. Start from a run of the same preset with the same model options"
    )


def _left(left: Mapping[str, str]) -> str:
    if not left:
        return ""
    more = f", and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    return "; of its own: " + "; ".join(f"{n} ({why})" for n, why in list(left.items())[:_NAMED]) + more


def audit(facts: Mapping[str, Any], manifest: Manifest, split: Split) -> Audit:
    """Whether the run that training started from may have seen this run's test part."""
    meaning = "Whether the run that training started from learned from items that test here: "
    if facts["data_sha256"] != manifest.sha256:
        said = "it was trained on other data, of which nobody has looked whether it holds them."
        return Audit("start_saw_test", "other data", None, meaning + said)
    if facts["split"] == split.digest:
        return Audit("start_saw_test", "same split", True, meaning + "it had the same data and the same split.")
    said = "it had the same data split otherwise, so it may have. Train it again with the split options of this run."
    return Audit("start_saw_test", "another split", False, meaning + said)


# ---------------------------------------------------------------------------------- a lower rate for the layers below


def depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Parameter -> its depth, and that of the head: 0 before the first block, 1 .. L in the blocks, L + 1 behind.

    What merges or expands tokens on the way into a stage counts to the stage's first block. Everything else stands by
    the order in which the model names its parts. Raises BadRequest where the model has no blocks.
    """
    at: dict[int, int] = {}
    for block in (module for module in model.modules() if isinstance(module, Block)):
        if id(next(block.parameters(), None)) not in at:  # a block inside another is a part of that
            number = 1 + max(at.values(), default=0)
            at |= {id(p): number for p in block.parameters()}
    if not at:
        raise BadRequest("option 'train.layer_decay' is below 1, and this model has no blocks to tell apart")
    for module in (module for module in model.modules() if isinstance(module, Backbone | UNet)):
        for entry in ("merges",) if isinstance(module, Backbone) else ("expands", "joins"):
            for part, stage in zip(getattr(module, entry), module.stages, strict=True):
                first = min((at[id(p)] for p in stage.parameters() if id(p) in at), default=None)
                at |= {id(p): first for p in part.parameters() if first is not None}
    last, seen, found = max(at.values()), 0, {}
    for name, parameter in model.named_parameters():
        seen = max(seen, at.get(id(parameter), 0))
        found[name] = at.get(id(parameter), seen if seen < last else last + 1)
    return found, last + 1


def factors(model: nn.Module, decay: float) -> dict[str, float]:
    """Parameter -> what its rate is multiplied by: 1 at the head, ``decay`` less for every block away from it."""
    if decay == 1.0:
        return {name: 1.0 for name, _ in model.named_parameters()}
    found, head = depths(model)
    return {name: decay ** (head - depth) for name, depth in found.items()}


def groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Parameter groups of one weight decay and one ``factor`` of the rate each.

    Weight decay on matrices and larger only: pulling norms, biases and scales to zero helps nobody.
    """
    of = factors(model, train.layer_decay)
    found: dict[tuple[float, bool], list[Tensor]] = defaultdict(list)
    for name, p in model.named_parameters():
        if p.requires_grad:
            found[of[name], p.ndim < 2].append(p)
    rows = [
        {"params": found[key], "weight_decay": 0.0 if key[1] else train.weight_decay, "factor": key[0]}
        for key in sorted(found)
    ]
    return rows or [{"params": [], "weight_decay": train.weight_decay, "factor": 1.0}]
