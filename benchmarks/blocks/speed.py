"""Blocks that say how fast and how steady it is: latency, streams, batches, exports, tracking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.blocks.text import counted, machine, ms, note, paragraph, percent, shown, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Result, Results

__all__ = ["BLOCKS"]


def _tracking(results: Results) -> str:
    """How still and how quick followed points are, and whether faces keep their numbers."""
    result = results["tracking"]
    rows = []
    for row in result["filters"]:
        motions = row["motions"]
        worst = max(motions, key=lambda motion: abs(motion["lag_frames"]))
        away, error = (sum(motion[key] for motion in motions) / len(motions) for key in ("off", "nme"))
        rows.append(
            [
                row["filter"],
                f"{percent(row['jitter'], 3)} %",
                f"{row['ratio']:.1f} ({row['ratio_worst']:.1f})",
                f"{worst['lag_frames']:.2f} ({worst['motion']})",
                f"{percent(away, 2)} %",
                f"{percent(error, 2)} %",
                f"{percent(row['blink_kept'])} %, {row['blink_late_frames']:.1f}",
            ]
        )
    head = [
        "filter", "jitter at rest", "less by (worst face)", "largest lag, frames", "off in motion", "NME in motion",
        "of a blink kept, frames late",
    ]  # fmt: skip
    data, settings = result["data"], result["settings"]
    text = (
        f"`{shown(result['command'])}` prints this, by motion, and says what is measured how: made clips of "
        f"{data['faces']} faces ({data['what']}), {settings['face_px']:.0f} px large, with a sensor's noise and JPEG, "
        f"that rest, move, come nearer or roll by a known way, 30 frames a second; of {data['clips']} clips "
        f"{data['left_out']} left out, in which the face was not seen in every frame. Jitter and *off*, the distance "
        "from where the moving face carries the networks' mean answer, are over the distance of the outer eye corners. "
        "No real videos are among them."
    )
    scenes = [
        [row["what"], f"{row['kept']} of {row['clips']}", f"{percent(row['seen'], 1)} %"] for row in result["numbers"]
    ]
    times = {row["what"]: ms(row["ms"]) for row in result["speed"]}
    followed, first, every = times.values()
    speed = (
        f"A frame of 640 x 480 with one face takes {followed} ms of processor time, {first} where the detector runs in "
        f"the first frame only, and {every} with the detector in every frame "
        f"({counted(settings['threads'], 'thread')}, `{settings['model']}`)."
    )
    return "\n\n".join(
        [
            table(head, rows),
            paragraph(text),
            table(["heads cut out of these photographs", "every face kept its number", "seen"], scenes),
            paragraph(speed),
        ]
    )


def _breakdown(results: Results) -> str:
    rows = []
    for label, name in (("before", "breakdown-before"), ("now", "breakdown")):
        for row in results[name]["rows"]:
            what = f"{row['face_px']:,} px face of {row['width']:,} x {row['height']:,}"
            parts = (row["ms"][part] for part in ("crop", "sampling", "networks", "rest", "whole"))
            rows.append([label, what, *(f"{value:.1f}" for value in parts)])
    return table(["", "", "crop", "sampling", "networks", "rest", "whole, ms"], rows)


def _batch(results: Results) -> str:
    if not results.has("batch"):
        return "Not measured yet: `python -m benchmarks.batch --json benchmarks/results/batch.json`."
    result = results["batch"]
    rows = [
        [
            f"{row['workers']}",
            f"{row['faces_s']:.1f}",
            f"{row['start_s']:.0f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['bytes_face']:,.0f}",
        ]
        for row in result["rows"]
    ]
    killed, one = result["killed"], result["rows"][0]
    text = (
        f"`{shown(result['command'])}`: {killed['pictures']:,} drawn faces of 112 px, nothing detected, model "
        f"`{result['settings']['model']}`. With {counted(killed['workers_killed'], 'worker')} and "
        f"{counted(killed['commands_killed'], 'command')} killed on the way: lost {killed['lost']}, doubled "
        f"{killed['doubled']}, {killed['errors']:,} in the errors table."
    )
    whole = (
        f"So 10^9 such faces are {1e9 / one['faces_s'] / 3600:,.0f} core-hours and "
        f"{1e9 * one['bytes_face'] / 1e12:.1f} TB of results."
    )
    if results.has("throughput"):
        found = results["throughput"]
        core = found.get("rows")[0]
        whole += (
            f" Photographs cost more, as they are decoded and searched: at {core['pictures_s']:.1f} pictures/s a core "
            f"(`{shown(found['command'])}`), 10^9 are {1e9 / core['pictures_s'] / 3600:,.0f} core-hours."
        )
    grows: Result = result["memory"]
    memory = (
        f"Memory that grows: {grows['listed_bytes_file']:,.0f} bytes of the command for each file that it lists; of a "
        f"worker, for each face of the shard at work, {grows['row_bytes_face']:,.0f} bytes as a row and "
        f"{grows['table_bytes_face']:,.0f} in the table that is made of the rows at the end."
    )
    head = ["workers", "faces/s", "s to start", "MB a worker, peak", "bytes of results a face"]
    return "\n\n".join([table(head, rows), paragraph(text), paragraph(memory), paragraph(whole)])


def _throughput(results: Results) -> str:
    result = results["throughput"]
    rows = [
        [
            counted(row["cores"], "core"),
            f"{row['pictures_s']:.1f}",
            f"{row['faces_s']:.1f}",
            "-" if row["cores"] == 1 else f"{row['gain']:.2f} x",
        ]
        for row in result["rows"]
    ]
    spent: Result = result["parts_ms"]
    parts = {
        "decode": "decoding",
        "search": "seeking faces",
        "judge": "a first look at what was found",
        "crop": "cropping",
        "refine": "refining",
    }
    whole = sum(spent[part] for part in parts)
    shares = ", ".join(f"{words} {percent(spent[part] / whole)} %" for part, words in parts.items())
    settings = result["settings"]
    note = (
        f"{settings['pictures']:,} photographs with {settings['faces']:,} faces of `{settings['model']}`, from their "
        f"files, networks on one thread; {machine(result)}, `{shown(result['command'])}`. Of a core's time: {shares}."
    )
    return "\n\n".join([table(["cores", "pictures/s", "faces/s", "against one core"], rows), paragraph(note)])


def _latency(results: Results) -> str:
    result = results["latency"]

    def face(face_px: int, faces: int = 1, stage: str = "regions", backend: str = "onnxruntime") -> Result:
        return result.one("boxes_given", face_px=face_px, faces=faces, model="ibug68", stage=stage, backend=backend)

    small, large = (
        f"{ms(face(px)['ms_per_face'])} ms (stage one alone {ms(face(px, stage='coarse')['ms_per_face'])}; "
        f'`backend="torch"` {ms(face(px, backend="torch")["ms_per_face"])})'
        for px in (288, 2000)
    )
    started = {row["what"]: row["s"] for row in result["startup"]}
    imported, helped = started["python -c 'import cascade_kp'"], started["python -m cascade_kp --help"]
    found = result.one("with_detector", what="one face")
    noise = result.one("with_detector", what="noise without a face")
    threads = counted(result["settings"]["threads"], "CPU thread")
    head = f"{threads}, `{shown(result['command'])}`, medians, {machine(result)}"
    low, high = face(288)["quartiles_ms"]
    return "\n\n".join(
        [
            table(
                [head, ""],
                [
                    ["a face of 288 px, box given", small],
                    ["a face of 2,000 px in a picture of 12 megapixels, box given", large],
                    ["a face among 16 that run together, 288 px", f"{ms(face(288, 16)['ms_per_face'])} ms"],
                    ["a picture of 640 x 480 with one face, detector included", f"{ms(found['ms'])} ms"],
                    ["noise of 640 x 480, in which there is no face", f"{ms(noise['ms'])} ms"],
                    [
                        "`import cascade_kp`, `cascade-kp --help` (whole processes)",
                        f"{imported:.2f} s, {helped:.2f} s; a bare `python` {started['python -c pass']:.2f} s",
                    ],
                ],
            ),
            paragraph(
                f"Half of the calls of the first line took between {ms(low)} and {ms(high)} ms"
                f"{note(result, ';')}. The machine is shared, so compare figures of one run."
            ),
        ]
    )


def _export(results: Results) -> str:
    result = results["export"]
    sizes = {
        "a face of 288 px": {"face_px": 288, "faces": 1},
        "8 of these": {"face_px": 288, "faces": 8},
        "1,000 px in 12 megapixels": {"face_px": 1000},
        "2,000 px": {"face_px": 2000},
    }

    def cell(model: str, size: dict[str, int]) -> str:
        took = (result.one("rows", model=model, how=how, **size) for how in ("graph", "onnxruntime", "torch"))
        return " / ".join(ms(row["ms_per_face"]) for row in took)

    rows = [
        [
            f"`{row['model']}`",
            f"{row['bytes'] / 1e6:.1f} MB",
            f"{row['distance_max']:.6f}",
            *(cell(row["model"], size) for size in sizes.values()),
        ]
        for row in result["models"]
    ]
    said = result["models"]
    smallest, largest = min(row["smallest_px"] for row in said), max(row["largest_px"] for row in said)
    outside = min(row["partly_outside"] for row in said)
    return "\n\n".join(
        [
            table(["model", "file", "farthest from PyTorch", *sizes], rows),
            paragraph(
                f"`{shown(result['command'])}`: for each model {said[0]['faces']} labelled faces at sizes from "
                f"{smallest:.0f} to {largest:,.0f} px, at least {outside} of them partly outside the picture; how far "
                'a point lies from what `Pipeline(model, backend="torch")` says, at most, in longer sides of its box. '
                "Then milliseconds of processor time a face on one thread, boxes given: this graph / `Pipeline` with "
                f'`backend="onnxruntime"` / with `backend="torch"`; {machine(result)}{note(result, ";")}.'
            ),
        ]
    )


def _export_network(results: Results) -> str:
    network = results["export"]["network"]
    took = network["ms"]
    return paragraph(
        f"For `{network['model']}`, the network of stage one's last pass took {network['compile_s']:.0f} s to compile, "
        f"and then {ms(took['compiled'])} ms of processor time for one crop, where PyTorch takes {ms(took['torch'])} "
        f"ms and ONNX Runtime {ms(took['onnxruntime'])} ms (`{shown(results['export']['command'])}`)."
    )


BLOCKS: dict[str, Callable[[Results], str]] = {
    "batch": _batch,
    "breakdown": _breakdown,
    "export": _export,
    "export-network": _export_network,
    "latency": _latency,
    "throughput": _throughput,
    "tracking": _tracking,
}
"""By the name that a Markdown file asks for."""
