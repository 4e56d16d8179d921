"""Model files: a cascade's tensors as safetensors, and everything about them as one JSON string in the header.

Never pickle. A file is refused, before memory is allocated for it, when it is damaged, of a newer format, or when
its tensors are not exactly those that its own configuration asks for.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cascade_kp.config import CascadeConfig, from_dict, to_dict
from cascade_kp.errors import CascadeError, ModelError
from cascade_kp.files import put_in_place
from cascade_kp.models.cascade import Cascade
from cascade_kp.schemes import Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "FORMAT_VERSION",
    "ModelInfo",
    "available_models",
    "load_model",
    "model_path",
    "networks",
    "save_model",
    "stored_tensors",
]

FORMAT_VERSION = 1
_KEY = "cascade_kp"
_MOST_LETTERS = {"name": 1000, "licence": 100_000}
_MAX_HEADER_BYTES = 16 << 20
_DTYPES = {"F16": torch.float16, "F32": torch.float32, "BF16": torch.bfloat16}
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        name: of the model.
        scheme: of its keypoints.
        config: of its networks.
        recipe: the recipe it was trained by, as plain values.
        data: what it was trained on: folders, counts, hashes.
        metrics: measured results, each with its protocol.
        licence: of the weights and of the data they come from.
        history: what was done to it, oldest first.
    """

    name: str
    scheme: Scheme
    config: CascadeConfig
    recipe: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    history: tuple[dict[str, Any], ...] = ()


def _embedded() -> dict[str, Path]:
    folder = resources.files("cascade_kp") / "assets"
    files = (Path(str(item)) for item in folder.iterdir() if item.name.endswith(".safetensors"))
    return {path.stem: path for path in sorted(files)}


def available_models() -> tuple[str, ...]:
    """Names of the embedded models."""
    return tuple(_embedded())


def model_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of an embedded model's name, or the path itself if it is one.

    Raises:
        ModelError: neither; the message lists the embedded models.
    """
    known = _embedded()
    expected = f"an embedded model ({', '.join(known) or 'there is none'}) or the path of a .safetensors file"
    if not isinstance(name_or_path, str | os.PathLike):
        raise ModelError(f"model: expected {expected}, got {type(name_or_path).__name__}")
    text = os.fsdecode(name_or_path)
    if text in known:
        return known[text]
    path = Path(text)
    if path.is_file():
        return path
    if text and path.is_dir():
        raise ModelError(f"model: expected {expected}, got the folder {text!r}")
    near = difflib.get_close_matches(text, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if "://" in text:
        hint = "; nothing is downloaded here, but cascade-kp hub pull fetches a model and says its path"
    raise ModelError(f"model: expected {expected}, got {text!r}, which is neither{hint}")


def save_model(
    path: str | os.PathLike[str],
    cascade: Cascade,
    info: ModelInfo,
    dtype: str = "F16",
    *,
    stored: Mapping[str, Tensor] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a model file: whole or not at all.

    Args:
        path: of the file; what stands there is replaced, unless ``overwrite`` is off.
        cascade: its networks.
        info: all about them; its scheme and configuration are taken from the cascade.
        dtype: of the stored tensors, ``F16``, ``F32`` or ``BF16``.
        stored: tensors to write as they are in place of the cascade's own, such as those of :func:`stored_tensors`.
        overwrite: replace a file that is there.

    Raises:
        ModelError: there is a file that must stay, the folder cannot be written to, the dtype is another, a weight is
            not finite in it, or what the info says cannot be said in JSON.
    """
    if dtype not in _DTYPES:
        raise ModelError(f"dtype: expected one of {sorted(_DTYPES)}, got {dtype!r}")
    info = replace(info, scheme=cascade.scheme, config=cascade.config)
    _check_texts(path, info)
    header = {
        "format_version": FORMAT_VERSION,
        "name": info.name,
        "scheme": info.scheme.to_dict(),
        "config": to_dict(info.config),
        "recipe": info.recipe,
        "data": info.data,
        "metrics": list(info.metrics),
        "licence": info.licence,
        "history": list(info.history),
    }
    tensors = {
        key: value.detach().cpu().to(_DTYPES[dtype] if value.is_floating_point() else value.dtype).contiguous()
        for key, value in _stored(cascade).items()
    } | dict(stored or {})
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: expected weights that are finite in {dtype}, got NaN or infinity in {key!r}")
    try:
        text = json.dumps({**header, "sha256": _digests(tensors)})
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: expected an info of plain values that JSON can hold, got: {error}") from error
    target = Path(path)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".saving-") as scratch:
            half = Path(scratch) / target.name
            save_file(tensors, half, {_KEY: text})
            half.chmod(0o644)
            put_in_place(half, target, overwrite=overwrite)
    except FileExistsError as error:
        raise ModelError(
            f"{target}: expected the name of a new file, got one that exists; nothing is overwritten"
        ) from error
    except (OSError, SafetensorError) as error:  # the latter where the disk is full
        raise ModelError(f"{target}: expected a file that can be written, got: {error}") from error


def stored_tensors(name_or_path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a model file bit for bit as they lie there, and the SHA-256 of each part's.

    Raises:
        ModelError: as :func:`load_model`, which should have read the file before.
    """
    path = model_path(name_or_path)
    try:
        with safe_open(path, framework="pt") as file:
            _, digests = _read_info(path, file.metadata())
            return {key: file.get_tensor(key) for key in file.keys()}, digests  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: expected a whole safetensors file, got a damaged one: {error}") from error


def networks(cascade: Cascade) -> dict[str, tuple[int, str]]:
    """The networks of a cascade by their parts' names: the number of parameters, and in words what each is."""
    config, found = cascade.config, {}
    for name, child, net in [
        ("first", cascade.coarse.first, config.first),
        ("coarse", cascade.coarse.net, config.coarse),
        *[(f"regions.{name}", child, config.regions[name].net) for name, child in cascade.regions.items()],
        ("boxes", cascade.boxes, config.boxes),
    ]:
        if child is not None and net is not None:
            trunk = f"ResNet-{net.trunk.depth} of width {net.trunk.width}, {net.trunk.stages} stages, {net.head}"
            what = trunk if net.design is None else f"the design {net.design.name}"
            found[name] = sum(p.numel() for p in child.parameters()), f"{net.input_px} px, {what}"
    return found


def _stored(cascade: Cascade) -> dict[str, Tensor]:
    # The batch counters of the norm layers serve training only.
    return {k: v for k, v in cascade.state_dict().items() if not k.endswith("num_batches_tracked")}


def _digests(tensors: dict[str, Tensor]) -> dict[str, str]:
    """SHA-256 of the stored tensors of every part: ``coarse``, ``boxes``, ``regions.<region>``.

    Part by part, because a retrained region must leave the others' as they were.
    """
    parts: dict[str, Any] = {}
    for key in sorted(tensors):
        words = key.split(".")
        part = ".".join(words[: 2 if words[0] == "regions" else 1])
        digest = parts.setdefault(part, hashlib.sha256())
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().view(torch.uint8).numpy().tobytes())
    return {part: digest.hexdigest() for part, digest in parts.items()}


def load_model(name_or_path: str | os.PathLike[str]) -> tuple[Cascade, ModelInfo]:
    """Read a model file.

    Args:
        name_or_path: an embedded model's name or a path.

    Returns:
        The cascade in float32, ready for inference, and what the file says of itself.

    Raises:
        ModelError: unknown, damaged, not safetensors, of a newer format, or tensors that do not fit the configuration.
    """
    path = model_path(name_or_path)
    try:
        _check_start(path)
        with safe_open(path, framework="pt") as file:
            info, digests = _read_info(path, file.metadata())
            shapes = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            cascade = _without_memory(path, info)
            expected = _stored(cascade)
            _check_tensors(path, expected, {k: (v.get_shape(), v.get_dtype()) for k, v in shapes.items()})
            stored = {key: file.get_tensor(key) for key in expected}
    except SafetensorError as error:
        raise ModelError(f"{path}: expected a whole safetensors file, got a damaged one: {error}") from error
    except OSError as error:
        raise ModelError(f"{path}: expected a file that can be read, got: {error}") from error
    values = {key: value.float() for key, value in stored.items()}
    for key, value in values.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: expected finite weights, got NaN or infinity in {key!r}")
    damaged = [part for part, digest in _digests(stored).items() if digests.get(part) != digest]
    if damaged:
        raise ModelError(
            f"{path}: expected the weights that its header has the SHA-256 of, got others in {damaged[0]!r}"
        )
    cascade.to_empty(device="cpu")
    cascade.load_state_dict(values, strict=False)
    for key, value in cascade.state_dict().items():
        if key not in values:  # the batch counters, which no file holds
            value.zero_()
    return cascade.eval().requires_grad_(requires_grad=False), info


def _without_memory(path: Path, info: ModelInfo) -> Cascade:
    """The networks that a file's header asks for, without memory for their weights, whatever their size."""
    try:
        with torch.device("meta"):
            return Cascade(info.config, info.scheme)
    except (CascadeError, RuntimeError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: expected a configuration that networks can be built from, got: {reason}") from error


def _check_start(path: Path) -> None:
    """Refuse what safetensors would not read anyway, with a better message, and headers of absurd length."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise ModelError(f"{path}: expected a safetensors file, got one of {len(start)} bytes")
    # A safetensors file starts with its header's length, and some lengths look like the start of a pickle.
    length = int.from_bytes(start, "little")
    if length > min(_MAX_HEADER_BYTES, path.stat().st_size):
        got = f"one that starts with {start!r}"
        if start.startswith(_PICKLE_STARTS):
            got = "a pickle or zip archive, which is never loaded"
        raise ModelError(f"{path}: expected a safetensors file, got {got}")


def _read_info(path: Path, metadata: dict[str, str] | None) -> tuple[ModelInfo, dict[str, str]]:
    if not metadata or _KEY not in metadata:
        raise ModelError(f"{path}: expected a cascade_kp model, got a safetensors file without that header")
    try:
        header = json.loads(metadata[_KEY])
        _check_version(path, header["format_version"])
        info = ModelInfo(
            name=str(header["name"]),
            scheme=Scheme.from_dict(header["scheme"]),
            config=from_dict(CascadeConfig, header["config"]),
            recipe=dict(header["recipe"]),
            data=dict(header["data"]),
            metrics=tuple(header["metrics"]),
            licence=str(header["licence"]),
            history=tuple(header["history"]),
        )
        _check_texts(path, info)
        return info, dict(header["sha256"])
    except ModelError:
        raise
    except (CascadeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: expected a valid cascade_kp header, got {type(error).__name__}: {error}") from error


def _check_texts(path: str | os.PathLike[str], info: ModelInfo) -> None:
    """Refuse a name or a licence that is no plain text: they are printed."""
    for key, most in _MOST_LETTERS.items():
        text = getattr(info, key)
        if len(text) > most or not text.translate({9: " ", 10: " "}).isprintable():
            expected = f"a {key} of at most {most:,} printable letters"
            raise ModelError(f"{path}: expected {expected}, got {len(text):,}: {text[:80]!r}")


def _check_version(path: Path, version: object) -> None:
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ModelError(
            f"{path}: expected format version {FORMAT_VERSION} or older, got {version!r}; upgrade cascade_kp"
        )


def _check_tensors(path: Path, expected: dict[str, Tensor], found: dict[str, tuple[list[int], str]]) -> None:
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        what = f"lacks {missing[0]!r}" if missing else f"also has {surplus[0]!r}"
        raise ModelError(f"{path}: expected the {len(expected)} tensors of its configuration, got one that {what}")
    for key, tensor in expected.items():
        shape, dtype = found[key]
        if list(shape) != list(tensor.shape) or dtype not in _DTYPES:
            fits = f"shape {list(tensor.shape)} in {', '.join(_DTYPES)}"
            raise ModelError(f"{path}: expected {key!r} of {fits}, got shape {list(shape)} in {dtype}")
