"""Inputs and outputs on an S3-compatible store: a real server on loopback, from moto."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.jobs import batch_predict
from pipelines.predict import predict
from pipelines.remote import is_remote, listing, opened
from shared_backbones.errors import BadInput, BadRequest

from .made import make_run, rows_task  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore")  # of the store's libraries


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A bucket of its own for each test, with two inputs and a torn one."""
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    name = tmp_path.name.replace("_", "-").lower()[:60]
    fs.mkdir(name)
    content = io.BytesIO()
    np.save(content, np.ones((3, 4)))
    for key, value in (("a", content.getvalue()), ("b", content.getvalue()), ("torn", content.getvalue()[:-5])):
        fs.pipe_file(f"{name}/in/{key}.npy", value)
    return fs, f"s3://{name}"


def test_a_batch_from_a_bucket_to_a_bucket(rows_task: str, tmp_path: Path, bucket: Any) -> None:  # noqa: F811
    fs, url = bucket
    run = make_run(tmp_path / "runs" / "toy-rows" / "0123456789ab")
    words = {"out": f"{url}/out", "root": tmp_path / "runs"}
    first = predict(run, [f"{url}/in/"], **words)
    assert first.exit_code == 3
    (refused,) = first.to_json()["refused"]
    assert refused["reason"].startswith(f"{url}/in/torn.npy: no array in it")
    base = url.removeprefix("s3://")
    fs.invalidate_cache()
    names = {key.removeprefix(f"{base}/out/") for key in fs.find(f"{base}/out")}
    made = {f"{k}/{name}" for k in "ab" for name in ("first.txt", "lineage.json", "prediction.csv")}
    assert names == {*made, "ledger.jsonl"}
    local = {name: (first.out / name).read_bytes() for name in made}
    assert {name: fs.cat_file(f"{base}/out/{name}") for name in made} == local

    fs.rm_file(f"{base}/out/a/prediction.csv")  # lost there, still in the mirror
    again = predict(run, [f"{url}/in/*.npy"], **words)
    assert len(again.reused) == 2
    fs.invalidate_cache()
    assert fs.cat_file(f"{base}/out/a/prediction.csv") == local["a/prediction.csv"]
    fs.copy(f"{base}/in/a.npy", f"{base}/in/torn.npy")  # mended
    third = batch_predict(str(run), [f"{url}/in"], f"{url}/out", root=tmp_path / "runs")
    assert third["said"] == "1 predicted, 2 were done before"


def test_what_is_not_there(rows_task: str, tmp_path: Path, bucket: Any) -> None:  # noqa: F811
    _, url = bucket
    run = make_run(tmp_path / "run")
    assert listing(f"{url}/in/a.npy") is None
    with pytest.raises(BadInput, match=r"gone\.npy cannot be read"):
        predict(run, [f"{url}/gone.npy"], tmp_path / "out")
    with pytest.raises(BadRequest, match="no file there"):
        predict(run, [f"{url}/nothing/"], tmp_path / "out")
    assert batch_predict(str(run), [f"{url}/nothing/"], tmp_path / "out")["said"] == "nothing to predict yet"
    with pytest.raises(BadRequest, match=r"cambium\[cloud\]"):
        opened("nosuch://bucket/x")
    assert [is_remote(t) for t in ("s3://b/x", "https://x.org/a", "a/b.npy", "simulated")] == [
        True,
        False,
        False,
        False,
    ]
