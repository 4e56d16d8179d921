"""Other libraries behind one signature, each run in a process of its own: ``python -m benchmarks.compare_peers``.

A peer is a module here with ``load(options, threads) -> Peer``, which raises ``AbsentError`` where the package or a
file it needs is not there. The library is imported in the peer's process only, so that a missing package is a line in
the report, and what a library does to its process (threads, log handlers, a crash) stays in it.
"""

from __future__ import annotations

__all__ = ["MODULES"]

MODULES = {
    "cascade_kp": "benchmarks.peers.cascade",
    "dlib": "benchmarks.peers.dlib_predictor",
    "mediapipe": "benchmarks.peers.mediapipe_mesh",
    "face-alignment": "benchmarks.peers.face_alignment_fan",
    "onnx": "benchmarks.peers.onnx_file",
}
"""What can be compared: the peer's kind, and where its ``load`` is."""
