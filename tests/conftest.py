"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import Phase, settings

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # for `import strategies`, whatever pytest's import mode and folder
    sys.path.insert(0, str(HERE))

THREADS = 2
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # tests that load ONNX Runtime themselves tell nobody, either

# For `make mutants`: the same examples every time, no clock, and the first that fails is enough.
settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)


def pytest_configure() -> None:
    """A job in the background ignores Ctrl-C, one under nohup a closed terminal, and so would what it starts.

    Tests ask what happens at a terminal.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    """Cap torch's threads where a test file has loaded it: tests share their machine. Never imports torch."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads") and torch.get_num_threads() > THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The research data, which is no part of the repository: `CASCADE_KP_DATA`, or `shared/data` beside it."""
    named = os.environ.get("CASCADE_KP_DATA")
    folder = Path(named) if named else HERE.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no research data at {folder} (set CASCADE_KP_DATA)")
    return folder


@pytest.fixture(scope="session")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web: where CASCADE_KP_ORT says, or from npm, which is asked once."""
    if named := os.environ.get("CASCADE_KP_ORT"):
        return Path(named)
    if shutil.which("npm") is None:
        pytest.skip("no npm to get onnxruntime-web with (or set CASCADE_KP_ORT to its folder)")
    folder = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(folder),
        "onnxruntime-web",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not get onnxruntime-web within 120 s")
    if done.returncode:
        pytest.skip(f"npm could not get onnxruntime-web: {done.stderr[-200:]}")
    return folder / "node_modules" / "onnxruntime-web"
