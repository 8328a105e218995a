"""Places that influence each other: adjacency files, the graph convolution, lattices of sensors and of cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from domains.timeseries.sensors.baselines import historical_average, weekly_table
from domains.timeseries.sensors.config import TrafficConfig
from domains.timeseries.sensors.data import parse_adjacency
from domains.timeseries.sensors.lattice import GraphConvolution
from domains.timeseries.traffic import Traffic
from shared_backbones.errors import BadInput, BadRequest
from shared_backbones.presets import load_preset
from tests.domains.timeseries.made import table, written

NAMES = ("a", "b", "c")


def task(**options: Any) -> Traffic:
    return Traffic(TrafficConfig(**{"lookback": 4, "horizon": 3, **options}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1\n1,0\n", "2 rows and 2 columns, and there are 3 series"),
        ("0,1,0\n0,0,1\n0,1,0\n", "not symmetric: a to b is 1, back it is 0.*directed=true"),
        ("0,-1,0\n-1,0,1\n0,1,0\n", "a to b is -1: weights must not be negative"),
        ("0,1,\n1,0,1\n0,1,0\n", "1 empty cells"),
        ("0,1,0\n1,0,x\n0,1,0\n", "row 2, column 'series_2': 'x' is no finite number.*where there is no road"),
        ("from,to,weight\na,d,1\n", "row 2: no series 'd'"),
    ],
)
def test_adjacency_errors_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_adjacency(text.encode(), NAMES, "w.csv", False)


def test_matrix_named_matrix_and_edges_are_the_same() -> None:
    plain = parse_adjacency(b"0,2,0\n2,0,1\n0,1,0\n", NAMES, "w.csv", False)
    named = parse_adjacency(b"c,b,a\n0,2,0\n1,0,2\n0,1,0\n", NAMES, "w.csv", True)
    assert named[:, 0].tolist() == [0, 2, 0]
    edges = parse_adjacency(b"from,to,weight\na,b,2\nb,a,2\nb,c,1\nc,b,1\n", NAMES, "w.csv", False)
    np.testing.assert_array_equal(plain, edges)
    assert parse_adjacency(b"from,to\na,b\n", NAMES, "w.csv", True)[0, 1] == 1


def test_the_graph_convolution_is_a_gated_sum_of_polynomials() -> None:
    torch.manual_seed(0)
    adjacency = torch.tensor([[0.0, 1, 0, 0], [1, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]])
    layer, x = GraphConvolution(6, adjacency), torch.randn(2, 3, 4, 6)
    degree = adjacency.sum(1)
    root = torch.diag(torch.where(degree > 0, degree.clamp_min(1e-9) ** -0.5, 0.0))
    s = -root @ adjacency @ root
    polynomials = [torch.eye(4), s, 2 * s @ s - torch.eye(4)]
    y = sum((p @ x) @ m.weight.T for p, m in zip(polynomials, layer.maps, strict=True))
    want = x + torch.sigmoid(layer.gate(torch.cat([x, y], -1))) * y
    torch.testing.assert_close(layer(x), want)


def test_cells_of_a_grid_take_a_preset_of_rank_three(tmp_path: Path) -> None:
    source = written(table(200, 6), tmp_path)
    t = task(grid=(2, 3), season=24)
    data = t.open(source)
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("pred_former_grid")).eval()
    assert model(t.items(data, split, fitted, "val").batch([0, 1])).shape == (2, 3, 6)
    with pytest.raises(BadRequest, match="leave grid= out"):
        t.build(fitted, load_preset("sttn_traffic"))
    plain = task(season=24)
    with pytest.raises(BadRequest, match="set grid="):
        plain.build(
            plain.fit(data, split) | {"lattice": {"axes": [6], "adjacency": []}}, load_preset("pred_former_grid")
        )
    with pytest.raises(BadInput, match="4 cells, and there are 6"):
        task(grid=(2, 2)).open(source)
    (tmp_path / "w.csv").write_text("0,1\n1,0\n")
    with pytest.raises(BadInput, match="no such file, neither"):
        Traffic(TrafficConfig(adjacency="none.csv")).open("simulated")
    with pytest.raises(BadInput, match="there are 6 series"):
        task(adjacency="w.csv").open(source)


def test_a_forecast_preset_says_what_it_is_for(tmp_path: Path) -> None:
    from domains.timeseries.config import ForecastConfig
    from domains.timeseries.forecast import Forecast

    t = Forecast(ForecastConfig(lookback=4, horizon=3, season=24, ets_origins=0))
    data = t.open(written(table(200), tmp_path))
    with pytest.raises(BadRequest, match="timeseries/traffic"):
        t.build(t.fit(data, t.split(data)), load_preset("sttn_traffic"))


def test_the_average_is_that_of_the_hour_of_the_week(tmp_path: Path) -> None:
    t = task(season=24)
    data = t.open(written(table(900), tmp_path))
    split = t.split(data)
    fitted = t.fit(data, split)
    windows = t.items(data, split, fitted, "test")
    found = historical_average(data, split, fitted)(windows.batch([5]))[0]
    steps, mean, std = split.parts["train"], np.array(fitted["mean"]), np.array(fitted["std"])
    at = int(windows.origins[5])
    same = [s for s in steps if (at + 1 - s) % 168 == 0]
    np.testing.assert_allclose(found[1], (data.values[same].mean(0) - mean) / std, rtol=1e-9)


def test_the_start_knows_the_hour_of_the_week_after_few_weeks() -> None:
    t = Traffic(TrafficConfig())
    data = t.open("simulated")
    split = t.split(data)
    fitted = t.fit(data, split)
    model = t.build(fitted, load_preset("sttn_traffic"))
    t.initialise(model, data, split)
    table = weekly_table(data, split, fitted)
    np.testing.assert_allclose(model.cycle.detach(), table, atol=1e-6)
    plain = t.build(fitted, replace(load_preset("sttn_traffic"), model={"cycle": False}))
    t.initialise(plain, data, split)
    assert not plain.cycle.any()
