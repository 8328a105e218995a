"""Configuration: layers in their order, mistakes as one sentence, YAML there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import (
    RunConfig,
    TrainConfig,
    build_preset,
    build_task,
    from_yaml,
    merge,
    parse_set,
    read_yaml,
    resolve,
    to_yaml,
)
from shared_backbones.errors import BadRequest


@pytest.fixture(autouse=True)
def _toy(toy_task: str) -> None:
    """Every test here configures the toy task."""


def request_(*sets: str, file: Path | None = None) -> RunConfig:
    return resolve("toy/line", sets=sets, file=file)


def test_layers_lie_in_their_order(tmp_path: Path) -> None:
    assert TrainConfig().epochs == 10  # the trainer's own
    config = request_()
    assert (config.train.epochs, config.train.lr, config.train.clip) == (3, 0.003, 1.0)  # task's, preset's, trainer's
    file = tmp_path / "mine.yaml"
    file.write_text("train: {lr: 1e-4, epochs: 7}\nrows: 50\nseed: 4\n")
    config = request_("train.epochs=8", file=file)
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (8, 1e-4, 16)
    assert (config.options.rows, config.options.noise) == (50, 0.1)
    assert (config.seed, config.data) == (4, "simulated")
    assert resolve("toy/line", file=file, seed=5, data="simulated:3").seed == 5


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.lr=1e-3", ["train", "lr"], 0.001),
        ("a.b.c=[1, 2.5, x]", ["a", "b", "c"], [1, 2.5, "x"]),
        ("split.allow_leak=true", ["split", "allow_leak"], True),
        ("patience=null", ["patience"], None),
        ("name=", ["name"], None),
        ("place=a=b", ["place"], "a=b"),
    ],
)
def test_set_takes_yaml_scalars(text: str, path: list[str], value: object) -> None:
    assert parse_set(text) == (path, value)


@pytest.mark.parametrize("text", ["train.lr", "=3", "a..b=3", ".a=1"])
def test_set_without_a_name_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="--set takes NAME=VALUE"):
        parse_set(text)


def test_yaml_cannot_execute() -> None:
    with pytest.raises(BadRequest, match="not plain YAML"):
        read_yaml("!!python/object/apply:os.system ['true']", "test")


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["lr=1"], r"unknown option 'lr'; did you mean 'train.lr'\?"),
        (["train.epoch=1"], r"unknown option 'train.epoch'; did you mean 'train.epochs'"),
        (["split.alow_leak=true"], r"unknown option 'split.alow_leak'; did you mean 'split.allow_leak'\?"),
        (["row=3"], r"unknown option 'row'; did you mean 'rows'"),
        (["rows=3"], r"option 'rows' should be greater than or equal to 10, got 3$"),
        (["rows=many"], r"option 'rows' should be a valid integer, .*got 'many'$"),
        (["train.schedule=linear"], r"option 'train.schedule' should be 'cosine' or 'constant', got 'linear'$"),
        (["train.lr=-1"], r"option 'train.lr' should be greater than 0, got -1$"),
        (["train.lr=.nan"], r"option 'train.lr' should be a finite number, got nan$"),
        (["train=3"], r"option 'train' holds named options, such as train.NAME=VALUE; got 3"),
        (["split=3"], r"option 'split' should be a valid dictionary .*got 3$"),
        (["preset=nonsense"], r"unknown preset 'nonsense'"),
        (["seed=-1"], r"option 'seed' should be greater than or equal to 0, got -1$"),
        (["train.lr=-1", "train.epochs=-1"], r"\(and 1 more\)$"),
    ],
)
def test_a_mistake_is_one_sentence(sets: list[str], said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        request_(*sets)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no configuration file"):
        request_(file=tmp_path / "none.yaml")
    for text, said in [
        ("[1, 2]", "must hold named options"),
        ("a: [", "not plain YAML"),
        ("task: a/b", "is for task 'a/b'"),
    ]:
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(BadRequest, match=said):
            request_(file=tmp_path / "x.yaml")


def test_another_tasks_preset_is_refused(tmp_path: Path) -> None:
    text = Path(__file__).with_name("toy.yaml").read_text().replace("toy/line", "timeseries/forecast")
    (tmp_path / "other.yaml").write_text(text)
    with pytest.raises(BadRequest, match=r"is for timeseries/forecast, not for 'toy/line'"):
        resolve("toy/line", preset=str(tmp_path / "other.yaml"))


def test_an_unknown_task_names_the_nearest_and_the_installed_ones() -> None:
    with pytest.raises(BadRequest, match=r"unknown task 'toy/lime'; did you mean 'toy/line'"):
        resolve("toy/lime")


@given(
    lr=st.floats(1e-8, 10),
    epochs=st.integers(0, 1000),
    clip=st.none() | st.floats(1e-3, 10),
    precision=st.sampled_from(["32", "bf16-mixed"]),
    noise=st.floats(0, 5),
    seed=st.integers(0, 2**32 - 1),
    leak=st.booleans(),
)
def test_yaml_there_and_back(
    lr: float, epochs: int, clip: float | None, precision: str, noise: float, seed: int, leak: bool
) -> None:
    base = request_("model.dim=16", "model.deep.er=[1, {a: null}]")
    train = TrainConfig(lr=lr, epochs=epochs, clip=clip, precision=precision)
    options = type(base.options)(noise=noise, split={"allow_leak": leak})
    config = base.model_copy(update={"train": train, "seed": seed, "options": options})
    again = from_yaml(to_yaml(config))
    assert again == config
    assert type(again.options) is type(options)


def test_what_a_run_writes_is_what_config_takes(tmp_path: Path) -> None:
    config = request_("train.lr=0.5", "rows=77", "model.dim=4")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert request_(file=tmp_path / "config.yaml") == config


def test_a_resolved_configuration_lacks_nothing() -> None:
    with pytest.raises(BadRequest, match="missing: data, preset, seed, train, model"):
        from_yaml("task: toy/line")


def test_it_builds_the_task_and_the_changed_preset() -> None:
    config = request_("rows=77", "model.dim=4", "model.mixer=identity")
    assert build_task(config).config.rows == 77
    (stage,) = build_preset(config).backbone.stages
    assert (stage.dim, stage.layers[0].mixer) == (4, "identity")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("model.mixer=atention", "unknown mixer 'atention'; did you mean 'attention'"),
        ("model.channel=mpl", "unknown channel layer 'mpl'; did you mean 'mlp'"),
    ],
)
def test_a_preset_of_unknown_parts_is_refused(option: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        build_preset(request_(option))


def test_paths_are_kept_absolute_and_names_as_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "series.csv").touch()
    (tmp_path / "simulated").mkdir()
    assert resolve("toy/line", data="series.csv").data == str(tmp_path / "series.csv")
    assert resolve("toy/line", data="simulated").data == "simulated"


plain = st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("ab"), st.integers()))


@given(low=plain, high=plain)
def test_merging_keeps_the_upper_layer_and_what_it_does_not_say(low: dict, high: dict) -> None:  # type: ignore[type-arg]
    both = merge(low, high)
    assert merge(both, high) == both
    assert set(both) == set(low) | set(high)
    for key in set(low) - set(high):
        assert both[key] == low[key]
    for key, value in high.items():
        if not isinstance(value, dict):
            assert both[key] == value
