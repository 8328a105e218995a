"""Guards of the house: what must stay true of the environment, of start-up and of the import directions."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ["shared_backbones", "domains", "pipelines", "flows"]
IMPORT_SERVER = [sys.executable, "-W", "ignore", "-c", "import prefect.server.api.server"]
HEAVY = {"torch", "lightning", "pytorch_lightning", "prefect", "mlflow", "pandas", "sklearn", "rasterio", "matplotlib"}


def test_prefect_server_imports() -> None:
    """prefect 3.8 beside fastapi 0.155 or newer cannot import its server, though `pip check` is clean."""
    run = subprocess.run(
        IMPORT_SERVER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_no_torchvision_and_no_cuda_build() -> None:
    names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
    assert not {n for n in names if n in {"torchvision", "torchaudio", "timm"}}
    if "+cpu" in metadata.version("torch"):
        assert not {n for n in names if n.startswith("nvidia-")}


def test_torch_is_the_pinned_release() -> None:
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert metadata.version("torch").split("+")[0] == pinned[1]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from pipelines.cli import main\n"
        "sys.argv = ['cambium', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stdout


def _lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def _copy_of_the_house(to: Path) -> None:
    (to / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            copy = to / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(file.read_text())


def test_imports_point_right(tmp_path: Path) -> None:
    _copy_of_the_house(tmp_path)
    run = _lint_imports(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("shared_backbones", "import domains"),
        ("domains", "import pipelines"),
        ("pipelines", "import flows"),
        ("shared_backbones", "import flows"),
        ("pipelines", "import prefect"),
        ("domains", "import lightning"),
        ("flows", "import mlflow"),
        ("shared_backbones", "import pandas"),
        ("domains/audio", "import domains.graph"),
    ],
)
def test_an_import_turned_round_is_found(tmp_path: Path, room: str, line: str) -> None:
    _copy_of_the_house(tmp_path)
    (tmp_path / room / "turned.py").write_text(line + "\n")
    run = _lint_imports(tmp_path)
    assert run.returncode != 0, run.stdout
    assert room.replace("/", ".") + ".turned" in run.stdout, run.stdout


def test_files_stay_rooms_one_can_know() -> None:
    long = {
        str(f.relative_to(ROOT)): n
        for room in ROOMS
        for f in (ROOT / room).rglob("*.py")
        if (n := len(f.read_text().splitlines())) > 400
    }
    assert not long, f"over 400 lines: {long}"


def _names(tree: ast.AST) -> tuple[set[str], list[ast.Name]]:
    """Names that a module binds anywhere, and its uses of names."""
    bound, used = {*dir(builtins), "__file__", "__name__"}, []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.arg(arg=name):
                bound.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                bound |= {(a.asname or a.name).split(".")[0] for a in names}
            case ast.Name(id=name, ctx=ast.Load()):
                used.append(node)
            case ast.Name(id=name):
                bound.add(name)
    return bound, used


def test_every_name_is_bound() -> None:
    """The linters cannot tell: shapes in annotations are strings that are no names, so their check is off."""
    wrong = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            bound, used = _names(ast.parse(path.read_text()))
            wrong += [f"{path.relative_to(ROOT)}:{n.lineno} {n.id}" for n in used if n.id not in bound]
    assert not wrong
