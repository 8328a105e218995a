"""The options of timeseries/classify."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from domains.task import TaskConfig


class ObjectSplitOptions(BaseModel):
    """Which objects train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["auto", "given", "folds"] = Field(
        "auto", description="given: the source's own train and test parts; folds: stratified; auto: given where there"
    )
    folds: int = Field(5, ge=2, description="stratified folds of the objects")
    fold: int = Field(0, ge=0, description="which of them is the test part")
    val: float = Field(0.2, gt=0, lt=0.9, description="share of the training objects of each class that validates")
    seed: int = Field(0, ge=0, description="of the random draws")


class TrendOptions(BaseModel):
    """Which column is a price, and what of its future is the class. Lengths are in rows of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    price: tuple[str, ...] = Field((), description="column of prices, or best bid and best ask; empty: no such table")
    window: int = Field(100, ge=2, description="rows that the class is told from")
    horizon: int = Field(10, ge=1, description="rows ahead whose smoothed price decides the class")
    smooth: int = Field(5, ge=0, description="a mean price is over this many rows and the one before them")
    threshold: float | Literal["thirds", "spread"] = Field(
        "thirds", description="least relative move; thirds: as often flat as not flat by a third of the training "
        "windows; spread: mean of (ask - bid) / price over the training rows",
    )  # fmt: skip
    stride: int = Field(1, ge=1, description="rows between the ends of two windows")
    train: float = Field(0.7, gt=0, lt=1, description="share of the rows, the first, that trains")
    test: float = Field(0.2, gt=0, lt=1, description="share of the rows, the last, that tests")
    columns: tuple[str, ...] = Field((), description="columns that the model sees; empty: all but the time column")


class ClassifyOptions(TaskConfig):
    """How objects are read, split, and turned into inputs. Times are in the unit of the time column."""

    object: str = Field("auto", description="column that names the object (auto: object, object_id, id, unique_id)")
    time: str = Field("auto", description="column of time stamps, as numbers (auto: time, mjd, t, hjd, bjd)")
    value: str = Field("auto", description="column of values (auto: mag, flux, value, y)")
    error: str = Field("auto", description="column of errors (auto: magerr, error, flux_err, err; none: no errors)")
    band: str = Field("auto", description="column of bands or channels (auto: band, filter, passband, channel)")
    label: str = Field("label", description="column of classes, in the objects' table or beside each observation")
    part: str = Field("part", description="column of the given part (train, val, test) in the objects' table, if there")
    header: bool = Field(True, description="whether the first row of a trend table names its columns")
    objects: str | None = Field(None, description="table of objects: path, or name beside or inside the source")
    objects_id: str = Field("auto", description="column of that table that names the object")
    static: tuple[str, ...] = Field((), description="numeric columns of the objects' table that the model sees too")
    known_period: str = Field("", description="numeric column of that table that the periods found are set beside")
    curves: str = Field("", description="folder below the source that holds one table per object")
    separator: str = ","
    sentinel: float | Literal["auto", "none"] = Field(
        "auto", description="|values| from this up are no observations; auto: 90 for magnitudes, none for the rest"
    )
    least: int = Field(2, ge=2, description="observations that an object needs at least")
    few: Literal["refuse", "drop"] = Field("refuse", description="training objects with fewer are refused or left out")

    grid: Literal["none", "time", "phase"] = Field(
        "none", description="light curves onto a regular grid: by a Gaussian process in time, or folded at the period"
    )
    grid_steps: int = Field(100, ge=8)
    shortest_period: float = Field(0.2, gt=0, description="of the search in light curves")
    longest_period: float | None = Field(None, gt=0, description="default: half of the object's own span")

    trend: TrendOptions = TrendOptions()
    split: ObjectSplitOptions = ObjectSplitOptions()
    convolutions: int = Field(9996, ge=84, description="fixed convolution features of a regular series")
    expansions: int = Field(1000, ge=0, description="random non-linear features of a light curve's statistics")
    dtw_cells: int = Field(600_000_000, ge=0, description="most cells of 1-NN DTW; above it that baseline is left out")
    simulated: dict[str, int] = Field(default_factory=dict, description="for --data simulated: objects, visits, seed")
