"""The package: a wheel trains elsewhere, floors are kept, light commands stay light."""

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attnlab
from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "src" / "attnlab"
# Each floor may import only those below it.
FLOORS = [
    {"errors", "source", "terminal"},
    {"targets"},
    {"registry"},
    {"ledger"},
    {"study", "tracking"},
    {"attention", "backbones"},
    {"insertion"},
    {"data"},
    {"explain"},
    {"config"},
    {"training", "trained"},
    {"sweep"},
    {"cli"},
]


def imports(path: Path) -> set[str]:
    """Rooms of attnlab that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "attnlab":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_each_room_imports_only_from_floors_below():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {
        p.stem if p.is_file() else p.name
        for p in SOURCE.iterdir()
        if p.name not in ("__init__.py", "__main__.py", "py.typed", "__pycache__")
    }
    assert rooms == set(floor)
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for other in imports(path) - {room, "__version__"}:
            assert floor[other] < floor[room], f"{path} imports {other}"


def test_contributing_shows_the_floors():
    rows = re.findall(r"^\| \d+ \| (`.+`) \|", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in reversed(rows)] == FLOORS


def test_each_room_says_what_it_is_for():
    for path in SOURCE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_function_bears_its_modules_name():
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert getattr(node, "name", None) != path.stem, path


def test_text_is_read_and_written_as_utf_8_whatever_the_locale():
    """Ruff (PLW1514) sees only what it knows to be a Path."""
    for path in SOURCE.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            modes = [a.value for a in call.args if isinstance(a, ast.Constant) and set(str(a.value)) <= set("rwxab+")]
            is_text = (
                name.endswith(".read_text")
                or (name.endswith(".write_text") and len(call.args) == 1)  # ours takes a path, too
                or (
                    re.fullmatch(r"(?!(os|Image|archive)\.)(.*\.)?open", name)
                    and not any("b" in mode for mode in modes)
                )
                or any(word.arg == "text" and ast.unparse(word.value) == "True" for word in call.keywords)
            )
            assert not is_text or "encoding" in {word.arg for word in call.keywords}, f"{path}:{call.lineno}"


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import attnlab", {"torch", "hydra", "lightning"}),
        ("import attnlab.ledger", {"torch", "hydra", "lightning", "numpy"}),
        (
            "import attnlab; attnlab.create; attnlab.attach; attnlab.cost; attnlab.find_sites",
            {"hydra", "lightning", "wandb", "attnlab.attention.kernels.on_gpu"},
        ),
        ("from attnlab.cli import main; main(['--help'])", {"torch", "hydra", "lightning"}),
        ("import attnlab; attnlab.create('mini_xception', num_classes=2, in_channels=1)", {"torchvision", "timm"}),
    ],
)
def test_light_imports_stay_light(code, absent):
    check = f"{code}\nimport sys; found = {absent!r} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, timeout=120)


WRONG = [
    *(["train", "attention=cbmm"], ["plan", "attention.rato=3"], ["train", "attention=cbam", "attention.ratio=0"]),
    *(["plan", "backbone=resnet51"], ["train", "trainer.max_epochs=0"], ["train", "study=a/b"]),
    *(["train", "hydra.run.dir=elsewhere"], ["report", "nowhere"], ["status", "nowhere"]),
    *(["predict", "nowhere", "README.md"], ["predict", "nowhere", "nowhere.png"], ["evaluate", "nowhere"]),
    *(["explain", "nowhere"], ["explain", "conf"], ["export", "nowhere", "--to", "onnx"], ["repot", "outputs"]),
]


def test_what_is_wrong_is_told_without_heavy_imports():
    code = f"""
import sys
from attnlab.cli import main
for words in {WRONG}:
    assert main(words) == 2, words
    found = {{"torch", "lightning", "timm", "sklearn"}} & set(sys.modules)
    assert not found, (words, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_wheel_installed_elsewhere_trains(tmp_path):
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    name = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    assert name.startswith(f"attnlab-{attnlab.__version__}-")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        names = wheel.namelist()
        wheel.extractall(site)
    assert "attnlab/conf/train.yaml" in names
    assert "attnlab/py.typed" in names
    assert not any(name.startswith(("tests", "outputs")) for name in names)
    small = ["backbone=lenet5", "sites=unit", "data=digits", "trainer.max_epochs=1", "+trainer.limit_train_batches=2"]
    done = subprocess.run(
        [sys.executable, "-m", "attnlab.cli", "train", "attention=se", *small],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (config,) = work.glob("outputs/default/*/config.yaml")
    assert "attnlab.attention.SE" in config.read_text()
    where = subprocess.run(
        [sys.executable, "-c", "import attnlab; print(attnlab.__file__)"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert Path(where).is_relative_to(site)  # it was the wheel that ran


def test_make_help_lists_the_targets():
    text = subprocess.run(["make", "help"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    for target in (
        "install",
        "run",
        "test",
        "test-all",
        "test-oldest",
        "test-cluster",
        "docs",
        "check",
        "format",
        "clean",
    ):
        assert f"make {target} " in text


def test_constraints_are_exact_and_name_no_address():
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert "==" in line.partition(";")[0], line
            assert "://" not in line
