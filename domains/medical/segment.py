"""`medical/segment`: structures in images and volumes, every voxel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..calibration import fitted_temperature
from ..task import Audit, Batch, Evidence, Fitted, Items, MetricFact, Part, Portable, Sink, Split, TaskConfig
from .plan import Plan, announce, fingerprint, make_plan, normalised
from .segment_baselines import fitted_rivals
from .segment_config import SegmentOptions
from .segment_items import TrainingPatches, Windows
from .segment_loss import dice_and_entropy
from .segment_model import Segmenter
from .segment_scoring import SEGMENT_FACTS, SegmentTally, segment_scores
from .segment_source import SegmentData, open_cases
from .segment_splits import audit_split, make_split
from .segment_windows import segment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from shared_backbones.presets import Preset

CALIBRATION_VOXELS = 200_000


class Segment:
    """Segmentation of flat images and of volumes, by one network on planned patches."""

    name: ClassVar[str] = "medical/segment"
    drift_pieces: ClassVar[bool] = True  # windows of an image
    summary: ClassVar[str] = "Structures in medical images and volumes, voxel by voxel, in the file's own geometry"
    Config: ClassVar[type[TaskConfig]] = SegmentOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"epochs": 30, "batch_size": 1, "lr": 2e-3, "weight_decay": 0.01}
    drift_part: ClassVar[str] = "val"  # training items are varied
    drift_inputs: ClassVar[tuple[str, int | str, int]] = ("", 0, 1)  # channels of an image
    default_preset: ClassVar[str] = "medical_unet"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = SEGMENT_FACTS

    def __init__(self, config: SegmentOptions) -> None:
        self.config = config

    @staticmethod
    def takes_folder(folder: Path) -> bool:
        """Whether a folder is one input: slices of DICOM and no images that are inputs of their own."""
        from .data.pairs import is_series

        return is_series(folder)

    def open(self, source: str) -> SegmentData:
        return open_cases(source, self.config)

    def split(self, data: SegmentData) -> Split:
        return make_split(data, self.config.split)

    def audit(self, data: SegmentData, split: Split) -> list[Audit]:
        return audit_split(data, split)

    def poison(self, data: SegmentData, split: Split) -> SegmentData:
        return data.poisoned(split.parts["test"])

    def fit(self, data: SegmentData, split: Split) -> Fitted:
        """The plan made from the training cases, and the schema of images and labels."""
        s = data.structures
        found = fingerprint([data.piece(row) for row in split.parts["train"]], len(s.values))
        plan = make_plan(found, self.config)
        return {
            "plan": plan.to_json(),
            "channels": data.channels,
            "values": list(s.values),
            "names": list(s.names),
            "ignore": s.ignore,
            "boundary": data.boundary,
            "share": list(found.share),
            "cases": found.cases,
        }

    def build(self, fitted: Fitted, preset: Preset) -> Segmenter:
        plan = Plan.from_json(fitted["plan"])
        return Segmenter(preset, plan.dimensions, fitted["channels"], len(fitted["values"]), plan.depth)

    def initialise(self, model: nn.Module, data: SegmentData, split: Split) -> None:
        """Nothing has a closed form here."""

    def items(self, data: SegmentData, split: Split, fitted: Fitted, part: Part) -> Items:
        c, plan, rows = self.config, Plan.from_json(fitted["plan"]), split.parts[part]
        if part != "train":
            return Windows(data, rows, plan)
        announce(plan)
        return TrainingPatches(data, rows, plan, items=c.patches, oversample=c.oversample, augment=c.augment)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        return dice_and_entropy(model(batch["image"]), batch["target"], self.config.dice)

    def calibrate(self, model: nn.Module, data: SegmentData, split: Split, fitted: Fitted) -> None:
        """Fit the temperature on voxels of the validation part."""
        assert isinstance(model, Segmenter)
        model.eval()
        model.temperature.fill_(1.0)
        items = Windows(data, split.parts["val"], Plan.from_json(fitted["plan"]))
        each = max(1, CALIBRATION_VOXELS // len(items))
        logits, truth = [], []
        for i in range(len(items)):
            batch = items.batch([i])
            with torch.no_grad():
                z = model(batch["image"].to(model.temperature.device)).cpu().movedim(1, -1)
            counts = batch["target"] >= 0
            step = max(1, int(counts.sum()) // each)
            logits.append(z[counts][::step])
            truth.append(batch["target"][counts][::step])
        z, y = torch.cat(logits), torch.cat(truth)
        if len(y):
            model.temperature.fill_(fitted_temperature(z, y))

    def evidence(self, model: nn.Module, data: SegmentData, split: Split, fitted: Fitted, part: Part) -> Evidence:
        assert isinstance(model, Segmenter)
        from .segment_predicting import blend_of

        plan, blend = Plan.from_json(fitted["plan"]), blend_of(self.config)
        return self._scored(
            data, split, part, lambda grid: segment(model, grid.image, grid.spacing, plan, blend).labels
        )

    def _scored(self, data: SegmentData, split: Split, part: Part, answer: Any) -> Evidence:
        """Every case of a part by a function from its grid to positions in the structures."""
        tally = SegmentTally(data.structures.values, data.boundary, self.config.tolerance)
        owners = [case.patient for case in data.cases]
        known = sorted(set(owners))
        pieces = split.parts[part]
        by_patient = all(owners) and len({owners[int(row[0])] for row in pieces}) > 1
        for i, row in enumerate(pieces):
            grid = data.piece(row)
            assert grid.labels is not None
            unit = known.index(owners[int(row[0])]) if by_patient else i
            tally.add(int(row[0]), unit, grid.labels, answer(grid).astype(np.int64), grid.spacing)
        return tally.evidence()

    def baselines(self, data: SegmentData, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        plan = Plan.from_json(fitted["plan"])
        rivals = fitted_rivals(data, split, plan)
        found = {
            name: self._scored(data, split, "test", lambda grid, f=rival: f(normalised(grid.image, plan)))
            for name, rival in rivals.items()
        }
        rows = split.parts["test"]
        if all(data.cases[int(row[0])].second is not None for row in rows):
            following = iter(rows)  # pieces are scored in this order
            found["second annotator"] = self._scored(data, split, "test", lambda grid: data.second(next(following)))
        return found

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return segment_scores(evidence)

    def figures(
        self, model: nn.Module, data: SegmentData, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .segment_figures import draw

        assert isinstance(model, Segmenter)
        return draw(self, model, data, split, fitted, scored)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        from .segment_predicting import predict_file

        assert isinstance(model, Segmenter)
        return predict_file(model, fitted, source, sink, self.config)

    def portable(self, model: nn.Module, fitted: Fitted) -> Portable:
        from .segment_portable import portable

        assert isinstance(model, Segmenter)
        return portable(model, fitted, self.config)
