"""The same training command in one process and in two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from cascade_kp.data.synthetic import write_synthetic
from cascade_kp.formats import read_pts, write_pts

RECIPE = """
name = "small"
seed = 1
steps = 1
batch = 16
validate_every = 5
sheet_every = 0
ema = 0.0
# One step of length 1 against the bare gradient: the weights move by exactly that.
optim = { name = "sgd", lr = 1.0, momentum = 0.0, weight_decay = 0.0, clip = 0.0 }
schedule = { name = "constant", warmup = 0 }
photometric = { grey = 0.3, poisson = 0.5, salt_pepper = 0.5, jpeg = 0.3 }

[data]
train = ["faces"]

[model]
working_face_px = 48
coarse = { input_px = 32, trunk = { width = 8, stages = 3 }, head_width = 16 }

[coarse]
non_faces = 0.25
"""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Faces, some points of which are not labelled, so that processes hold unequal numbers of labels."""
    folder = tmp_path_factory.mktemp("processes")
    write_synthetic(folder / "faces", 40, seed=2, size=(80, 90))
    for i, path in enumerate(sorted((folder / "faces").rglob("*.pts"))):
        points = read_pts(path)
        points[: 3 * (i % 7)] = float("nan")
        write_pts(path, points)
    (folder / "small.toml").write_text(RECIPE)
    return folder


def run(root, out, *settings, prefix=(), fails=False):
    """Train in another interpreter; what its first process said on stderr."""
    command = [sys.executable, *prefix, "-m", "cascade_kp", "train", "small.toml"]
    command += ["--data", ".", "--out", out, "--threads", "1", *settings]
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr


def weights(root, out):
    return torch.load(root / out / "coarse.pt", weights_only=True)["trainee"]


@pytest.mark.slow
def test_the_gradient_of_two_processes_is_that_of_one(root):
    run(root, "one")
    run(root, "two", prefix=TORCHRUN)
    one, two = weights(root, "one"), weights(root, "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, atol=2e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
    # And without what processes exchange it would be another: half a batch alone gives other weights.
    run(root, "half", "--batch", "8")
    half = weights(root, "half")
    apart = max(float((half[name] - value).abs().max()) for name, value in one.items() if value.is_floating_point())
    assert apart > 1e-2


@pytest.mark.slow
def test_two_machines_that_meet_over_a_network(root):
    """Two torchruns, one process each, as on two machines; the network is this machine's loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    command = [sys.executable, "-m", "torch.distributed.run", *meet, "-m", "cascade_kp", "train", "small.toml"]
    command += ["--data", ".", "--out", "machines", "--threads", "1", "--run.accelerator", "cpu"]
    environment = {**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for machine in started:
            said = machine.communicate(timeout=240)[1]
            assert machine.returncode == 0, said
    finally:
        for machine in started:
            machine.kill()
    run(root, "machine")
    one, two = weights(root, "machine"), weights(root, "machines")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-3)
    assert len((root / "machines" / "coarse.jsonl").read_text().splitlines()) == 1  # one process in all writes the log


@pytest.mark.slow
def test_processes_started_by_the_command_itself(root):
    adam = ["--optim.name", "adamw", "--optim.lr", "1e-3", "--steps", "4", "--validate_every", "2"]
    run(root, "alone", *adam)
    run(root, "together", *adam, "--run.devices", "2", "--run.accelerator", "cpu")
    alone, together = weights(root, "alone"), weights(root, "together")
    for name, value in alone.items():
        # Adam divides by the gradient's own size, which makes rounding visible.
        torch.testing.assert_close(together[name].float(), value.float(), atol=5e-3, rtol=0.05)
    assert (root / "together" / "small.safetensors").exists()
    assert len((root / "together" / "coarse.jsonl").read_text().splitlines()) == 2  # one process writes the log


@pytest.mark.slow
def test_torchrun_that_is_ended_saves_and_one_process_goes_on(root):
    steps = ["--optim.name", "adamw", "--optim.lr", "1e-3", "--steps", "120", "--validate_every", "40"]
    command = [sys.executable, *TORCHRUN, "-m", "cascade_kp", "train", "small.toml", "--data", ".", "--out", "ended"]
    started = subprocess.Popen(
        [*command, "--threads", "1", *steps], cwd=root, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(1200):
            if (root / "ended" / "coarse.jsonl").exists() or started.poll() is not None:
                break
            time.sleep(0.1)
        started.terminate()
        said = started.communicate(timeout=60)[1]
    finally:
        started.kill()
    step = torch.load(root / "ended" / "coarse.pt", weights_only=True)["step"]
    assert 40 <= step < 120, said
    assert f"stopped at step {step} of 120, saved in" in said
    run(root, "ended", *steps)
    ended = torch.load(root / "ended" / "coarse.pt", weights_only=True)
    assert (ended["step"], ended["finished"]) == (120, True)
    assert [json.loads(line)["step"] for line in (root / "ended" / "coarse.jsonl").read_text().splitlines()] == [
        40,
        80,
        120,
    ]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out(root):
    said = run(root, "uneven", "--batch", "15", prefix=TORCHRUN, fails=True)
    assert "coarse.batch: expected a multiple of the number of processes, 2, got 15" in said


@pytest.mark.slow
def test_another_number_of_processes_than_asked_for(root):
    said = run(root, "wrong", "--run.devices", "3", prefix=TORCHRUN, fails=True)
    assert "run.devices: expected 2, as torchrun started, or 0, got 3" in said


def test_more_devices_than_there_are(root):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    said = run(root, "none", "--run.accelerator", "cuda", fails=True)
    assert "run: expected devices that this machine has" in said
    assert not (root / "none" / "coarse.pt").exists()
