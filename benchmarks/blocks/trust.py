"""Blocks that say how much bad input, faults and load it bears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.blocks.text import machine, ms, note, paragraph, percent, shown, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.blocks.results import Result, Results

__all__ = ["BLOCKS"]

_BAD = ("refused_badly", "other_error", "wrong", "too_much_memory", "hung", "crashed")
_WAYS = {
    "pipeline": "`Pipeline(detector=None)`",
    "default": "`Pipeline()`",
    "command line": "`cascade-kp predict`",
}


def _hostile(results: Results) -> str:
    """What became of hostile pictures and label files."""
    result = results["hostile"]
    ways = result["rows"]
    rows = [_row(f"pictures, {name}", ways[way], timed=way != "command line") for way, name in _WAYS.items()]
    rows += [_row(f"labels, {row['kind']}", [row], timed=True) for row in ways["labels"]]
    pictures = [row for way in _WAYS for row in ways[way]]
    lossless, lossy = (max(row[key] for row in pictures if key in row) for key in ("moved_lossless", "moved_lossy"))
    command, place = shown(result["command"]), machine(result) + note(result, ";")
    text = f"""
    `{command}` printed this, on {place}. Every input ended in a sound answer or in a refusal with its reason. Where a
    file was another writing of a plain picture, the points lay at most {lossless:.6f} of the picture's longer side from
    those of the plain one if the writing loses nothing, and {lossy:.3f} if it does. Memory is what one input added to
    the process's peak.
    """
    head = ["inputs", "number", "answered", "refused", "otherwise", "longest, s", "most memory, MiB"]
    return f"{paragraph(text)}\n\n{table(head, rows)}"


def _row(name: str, kinds: list[Result], *, timed: bool) -> list[str]:
    answered, refused = (sum(kind[key] for kind in kinds) for key in ("answered", "refused"))
    otherwise = sum(kind[key] for kind in kinds for key in _BAD)
    worst = (
        [f"{max(k['worst_s'] for k in kinds):.1f}", f"{max(k['worst_mib'] for k in kinds):,}"] if timed else ["-", "-"]
    )
    return [name, f"{answered + refused + otherwise:,}", f"{answered:,}", f"{refused:,}", f"{otherwise}", *worst]


def _faults(results: Results) -> str:
    """What became of commands that were killed."""
    result = results["faults"]
    killed, counted = [row for row in result["rows"] if "kills" in row], ("kills", "unfinished", "finished")
    pairs = [row for row in result["rows"] if "refused" in row]
    rows = [
        [row["job"], *(f"{row[key]}" for key in counted), f"{row['undisturbed_s']:.0f} s", f"{row['wrong']}"]
        for row in killed
    ]
    said = "; ".join(f"{row['job']}: {row['refused']} refused, {row['wrong']} results differ" for row in pairs)
    text = f"""
    `{shown(result["command"])}` printed this, on {machine(result)}{note(result, ";")}. Every second kill came
    when a new file had just appeared. *Unfinished* are kills that left a file under a temporary name, *ended before*
    attempts that were quicker than their moment, *wrong* files under a finished name that were not the undisturbed
    run's, after a kill or at the end. Two commands at a time: {said}.
    """
    head = ["job", "killed", "unfinished", "ended before", "undisturbed", "wrong"]
    return f"{paragraph(text)}\n\n{table(head, rows)}"


def _load(results: Results) -> str:
    """What a pipeline bears."""
    result = results["load"]
    threads, stream, apart = result["threads"], result["stream"], result["apart"]
    rows = [
        [
            f"{threads['threads']} threads, one `Pipeline`, {threads['minutes']:.0f} minutes",
            f"{threads['calls']:,} calls, {threads['other_answers']} answers other than one thread's",
            f"p50 {ms(threads['p50_ms'])} ms, p99 {ms(threads['p99_ms'])} ms",
        ],
        ["`Pipeline.stream`", f"{stream['faces']:,} faces", f"{stream['faces_s']:.0f} faces a second"],
        ["two processes", f"{result['runs_differ']} answers differ", ""],
        [
            f"batches of {', '.join(map(str, apart['batch_sizes']))}",
            f"at most {apart['batches_px']:.4f} px apart",
            f"{apart['faces']} faces",
        ],
        [
            "runs of `cascade-kp batch`, whose batches fall otherwise",
            f"at most {results['batch']['killed']['apart_px']:.4f} px apart",
            f"{results['batch']['killed']['faces']:,} faces ([how](../how-to/batch.md))",
        ],
        [
            "float32 against float64",
            f"at most {apart['float64_px']:.4f} px apart",
            f"{apart['float64_sides']:.6f} of the face's longer side",
        ],
    ]
    text = f"""
    `{shown(result["command"])}` printed this, on {machine(result)}{note(result, ";")}. After the warm-up, memory grew
    by {percent(threads["memory_growth"], 2, "+")} % under the threads and by
    {percent(stream["memory_growth"], 2, "+")} % in the stream (to {stream["resident_mib"]:.0f} MiB), the number of open
    files by {percent(threads["files_growth"])} % and {percent(stream["files_growth"])} %.
    """
    return f"{paragraph(text)}\n\n{table(['what', 'result', ''], rows)}"


BLOCKS: dict[str, Callable[[Results], str]] = {"hostile": _hostile, "faults": _faults, "load": _load}
"""By the name that a Markdown file asks for."""
