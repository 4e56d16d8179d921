"""The package as a whole: what importing costs, its version, its layers, and what the repository holds."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cascade_kp

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "torchvision", "cv2", "pandas", "skimage", "scipy", "numpy", "PIL")
MAX_FILE_BYTES = 25 * 1000 * 1000

checkout = pytest.mark.skipif(
    not (ROOT / "cascade_kp" / "__init__.py").is_file(), reason="these tests run away from a checkout"
)


def loaded_after(code: str) -> set[str]:
    """Names of the modules a fresh interpreter has loaded after running `code`."""
    report = "\nimport sys; print('\\nLOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_import_is_free_of_heavy_libraries():
    loaded = loaded_after("import cascade_kp; assert dir(cascade_kp)")
    assert "cascade_kp" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["config", "errors", "formats", "images", "metrics", "schemes"])
def test_modules_that_describe_read_or_count_do_without_torch(module):
    loaded = loaded_after(f"import cascade_kp.{module}")
    assert loaded.isdisjoint({"torch", "torchvision"})


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["info", "--help"], ["hub", "--help"]])
def test_help_never_imports_torch(arguments):
    code = f"""
import sys
sys.argv = ["cascade-kp", *{arguments!r}]
from cascade_kp.cli import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
if code:
    sys.exit(f"--help ended with {{code}}")
"""
    assert loaded_after(code).isdisjoint({"torch", "torchvision", "cv2"})


@pytest.mark.parametrize("name", [n for n in cascade_kp.__all__ if n != "__version__"])
def test_every_exported_name_is_there(name):
    value = getattr(cascade_kp, name)
    assert getattr(cascade_kp, name) is value
    assert value.__name__ == name
    assert name in dir(cascade_kp)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'pipline'"):
        _ = cascade_kp.pipline


def test_the_version_is_the_installed_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", cascade_kp.__version__)
    assert importlib.metadata.version("cascade-kp") == cascade_kp.__version__


def test_the_typing_marker_is_installed():
    assert (Path(cascade_kp.__file__).parent / "py.typed").is_file()


@checkout
def test_the_citation_names_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", text, re.MULTILINE).group(1) == cascade_kp.__version__


@checkout
def test_file_size_of_everything_tracked_is_small():
    big = {p.name: p.stat().st_size for p in tracked_files() if p.is_file() and p.stat().st_size > MAX_FILE_BYTES}
    assert not big, f"git keeps every copy for ever; files over {MAX_FILE_BYTES} bytes: {big}"


@checkout
def test_datasets_is_not_a_package():
    # `import datasets` must find Hugging Face's library, never a folder of ours.
    assert not (ROOT / "datasets" / "__init__.py").exists()


@checkout
def test_the_layers_hold():
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.is_file():
        pytest.skip("import-linter is not installed beside this interpreter")
    done = subprocess.run([str(tool), "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
