"""Options of `hyperspectral/change`."""

from __future__ import annotations

from pydantic import Field, model_validator

from ..config import ClassifyOptions


class ChangeOptions(ClassifyOptions):
    """Options of `hyperspectral/change`. Those on data, bands and split mean what they mean in
    `hyperspectral/classify`; ``labels`` is the change mask.
    """

    after: str | None = Field(None, description="the scene of the second date, where the source is that of the first")
    unlabelled: tuple[int, ...] = Field((), description="label ids that mean: no label")
    unchanged: tuple[int, ...] = Field((0,), description="ids of the mask that mean: no change")
    changed: tuple[int, ...] = Field((1, 255), description="ids of the mask that mean: change; others are no label")
    components: int = Field(16, ge=1, description="principal components in which canonical variates are sought")
    simulated: dict[str, float] = Field(
        default_factory=dict,
        description="for --data simulated: seed, rows, cols, bands, noise, pixels_per_field, changed",
    )

    @model_validator(mode="after")
    def _apart(self) -> ChangeOptions:
        both = set(self.changed) & set(self.unchanged)
        if both or not self.changed or not self.unchanged:
            raise ValueError(f"changed and unchanged must name ids, none in both; got {self.changed}, {self.unchanged}")
        return self
