"""Models to and from a Hugging Face hub: one model a repository, with a card made of what its file says of itself.

Nothing here runs unless it is called: no other part of the library knows the hub, and a model is loaded from a path.
Address, token, cache and time-outs are those of ``huggingface_hub``: ``HF_ENDPOINT``, ``HF_TOKEN`` (or
``hf auth login``), ``HF_HOME``, ``HF_HUB_ETAG_TIMEOUT``. With ``HF_HUB_OFFLINE`` only what was pulled before is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cascade_kp import __version__
from cascade_kp.errors import HubError, InputError
from cascade_kp.files import write_file
from cascade_kp.weights import available_models, load_model, model_path, networks

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from huggingface_hub import HfApi

    from cascade_kp.schemes import Scheme
    from cascade_kp.weights import ModelInfo

__all__ = ["MODEL_FILE", "Pulled", "Pushed", "model_card", "pull", "push"]

MODEL_FILE = "model.safetensors"
"""What a model is called in its repository."""

_INSTALL = "huggingface_hub: expected the package to be installed (pip install 'cascade-kp[hub]'), got"


class Pushed(NamedTuple):
    """What became of a push.

    Attributes:
        url: Of the commit.
        revision: The commit's hash, which :func:`pull` takes.
    """

    url: str
    revision: str


class Pulled(NamedTuple):
    """What was pulled.

    Attributes:
        path: Of the model file, for ``Pipeline``.
        revision: The commit that it is of.
        sha256: Of the file.
    """

    path: Path
    revision: str
    sha256: str


def push(
    model: str | os.PathLike[str],
    repo: str,
    *,
    public: bool = False,
    notes: str | os.PathLike[str] | None = None,
    message: str | None = None,
    file: str = MODEL_FILE,
) -> Pushed:
    """Upload a model and its card, as one commit.

    Args:
        model: An embedded model's name, or the path of a model file. It is loaded first: nothing broken is sent.
        repo: ``owner/name``. It is made where there is none.
        public: Whether a repository that is made can be seen by everyone; one that exists stays as it is.
        notes: A Markdown file that goes into the card, as of :func:`model_card`.
        message: Of the commit.
        file: What the model is called in the repository.

    Returns:
        The commit. Where the repository holds the very same already, its latest one.

    Raises:
        ModelError: The model cannot be loaded.
        InputError: ``huggingface_hub`` is not installed, or the repository's or the file's name is none.
        HubError: The hub cannot be reached, or refuses.
    """
    _check_file(file)
    path = model_path(model)
    card = model_card(model, repo, notes=notes, file=file)
    api = _api()
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 (an optional extra)

    with _explained(api, repo):
        if not _exists(api, repo):
            api.create_repo(repo, private=not public, exist_ok=True)
        commit = api.create_commit(
            repo,
            operations=[CommitOperationAdd(file, path), CommitOperationAdd("README.md", card.encode())],
            commit_message=message or f"{path.stem}, by cascade_kp {__version__}",
        )
    return Pushed(str(commit.commit_url), str(commit.oid))


def pull(
    repo: str,
    *,
    revision: str | None = None,
    file: str = MODEL_FILE,
    out: str | os.PathLike[str] | None = None,
) -> Pulled:
    """Download a model, and check that it is what the hub promised and a model of this library.

    Args:
        repo: ``owner/name``.
        revision: A branch, tag or commit; ``main`` by default. What is published depends on a commit.
        file: What the model is called in the repository.
        out: A new file to write the model to. By default it stays in ``huggingface_hub``'s cache, which knows it again.

    Returns:
        Where it is, and what it is.

    Raises:
        InputError: ``huggingface_hub`` is not installed, a name is none, or ``out`` exists.
        HubError: The hub cannot be reached or refuses; there is no such repository, revision or file; what came is not
            what the hub says it has; or the hub must not be asked, and the file was not pulled before.
        ModelError: The file is no model of this library.
    """
    _check_file(file)
    target = None if out is None else Path(out)
    if target is not None and (target.exists() or not target.parent.is_dir()):
        got = "one that exists; nothing is overwritten" if target.exists() else "one in a folder that does not exist"
        raise InputError(f"{target}: expected the name of a new file, got {got}")
    api = _api()
    from huggingface_hub import is_offline_mode  # noqa: PLC0415 (an optional extra)

    with _explained(api, repo, revision):
        if is_offline_mode():
            path, promised = _cached(repo, revision or "main", file), None
        else:
            path, promised = _downloaded(api, repo, revision, file)
    digest = _sha256(path)
    if promised is not None and digest != promised:
        # The cache would give it again.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"{repo}: expected {file} of SHA-256 {promised}, as the hub says, got {digest}; it was removed, pull again"
        )
    load_model(path)
    if target is not None:
        write_file(target, path.read_bytes())
    return Pulled(path if target is None else target, path.parent.name, digest)  # the cache has a folder a commit


def _downloaded(api: HfApi, repo: str, revision: str | None, file: str) -> tuple[Path, str | None]:
    """The file in the cache, and the SHA-256 that the hub says it has."""
    listing = api.model_info(repo, revision=revision, files_metadata=True, timeout=_timeout())
    files = {entry.rfilename: entry for entry in listing.siblings or []}
    if file not in files:
        others = [name for name in files if name.endswith(".safetensors")]
        hint = f"; it holds {', '.join(others[:5])}" if others else ", and no other .safetensors file"
        raise HubError(f"{repo}: expected the file {file!r}, got a repository without it{hint}")
    path = Path(api.hf_hub_download(repo, file, revision=revision))
    # Something was pushed since, or the download failed and the cache gave what it had.
    if path.parent.name != listing.sha:
        raise HubError(f"{repo}: expected {file} of commit {listing.sha}, got that of {path.parent.name}; pull again")
    stored = files[file].lfs  # what git keeps itself has no SHA-256; the model's header has those of its tensors
    return path, None if stored is None else stored.sha256


def _cached(repo: str, revision: str, file: str) -> Path:
    """The file as it was pulled before."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 (an optional extra)

    path = try_to_load_from_cache(repo, file, revision=revision)
    if not isinstance(path, str):
        raise HubError(
            f"{repo}: expected {file} of {revision!r} in the cache, as HF_HUB_OFFLINE is set, got none; pull it once "
            "without HF_HUB_OFFLINE"
        )
    return Path(path)


def _exists(api: HfApi, repo: str) -> bool:
    """Whether there is such a repository; the first thing asked, as only this call has a time-out."""
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415 (an optional extra)

    try:
        api.model_info(repo, timeout=_timeout())
    except RepositoryNotFoundError:
        return False
    return True


def _api() -> HfApi:
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 (an optional extra)
    except ImportError as error:
        raise InputError(f"{_INSTALL} {error}") from error
    return HfApi(library_name="cascade_kp", library_version=__version__)


def _timeout() -> float:
    from huggingface_hub import constants  # noqa: PLC0415 (an optional extra)

    return constants.HF_HUB_ETAG_TIMEOUT


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(file: str) -> None:
    if not file.endswith(".safetensors") or file != Path(file).name:
        raise InputError(f"file: expected a plain name that ends in .safetensors, got {file!r}")


@contextlib.contextmanager
def _explained(api: HfApi, repo: str, revision: str | None = None) -> Iterator[None]:
    """Turns what the hub's library raises into errors of ours that say what to do."""
    import httpx2  # noqa: PLC0415 (an optional extra)
    from huggingface_hub import errors  # noqa: PLC0415 (an optional extra)

    try:
        yield
    except HubError:
        raise
    except errors.HFValidationError as error:
        raise InputError(f"repo: expected owner/name, got {repo!r}: {_first_line(error)}") from error
    # Among them the errors of the sockets, of the disk, of answers that are no JSON, and of the half written in Rust.
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError, errors.XetDownloadError) as error:
        raise HubError(f"{repo}: expected {_reason(error, api.endpoint, revision)}") from error


def _reason(error: Exception, endpoint: str, revision: str | None) -> str:
    """What was expected and what came, as the end of a message."""
    import httpx2  # noqa: PLC0415 (an optional extra)
    from huggingface_hub import errors  # noqa: PLC0415 (an optional extra)

    allowed = "a token that may (HF_TOKEN, or hf auth login)"
    known: list[tuple[type[Exception], str]] = [  # the special ones first
        (errors.OfflineModeIsEnabled, "to be allowed to ask the hub, got HF_HUB_OFFLINE"),
        (errors.GatedRepoError, "an open repository, got one whose owner must let you in"),
        (errors.RepositoryNotFoundError, f"a model repository at {endpoint}, got none, or one that wants {allowed}"),
        (errors.RevisionNotFoundError, f"a branch, tag or commit, got {revision!r}, which there is not"),
        (
            httpx2.TimeoutException,
            f"an answer of {endpoint}, got none in time (HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT: seconds)",
        ),
    ]
    for kind, reason in known:
        if isinstance(error, kind):
            return reason
    wrapped = type(error) is RuntimeError or isinstance(error, errors.LocalEntryNotFoundError)
    if wrapped and isinstance(error.__cause__, Exception):  # what it says itself is that something went wrong
        return _reason(error.__cause__, endpoint, revision)
    got = _first_line(error)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 404 and "xet-" in str(error):
            return f"a hub that takes uploads by Xet, and {endpoint} does not; set HF_HUB_DISABLE_XET=1"
        return f"{allowed if status in (401, 403) else f'an answer of {endpoint}'}, got {status}: {got}"
    return f"to reach {endpoint}, got {type(error).__name__}: {got}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")


# ---------------------------------------------------------------------------------------------- the card


def model_card(
    model: str | os.PathLike[str],
    repo: str,
    *,
    notes: str | os.PathLike[str] | None = None,
    file: str = MODEL_FILE,
) -> str:
    """A model card in Markdown, made of what the model file says of itself.

    Args:
        model: An embedded model's name, or the path of a model file.
        repo: The repository that the card is for, ``owner/name``.
        notes: A Markdown file with what a person has to say of the model; of an embedded one by default its own card.
        file: What the model is called there.

    Returns:
        The text, with the hub's metadata at its head.

    Raises:
        ModelError: The model cannot be loaded.
        InputError: The notes cannot be read.
    """
    path = model_path(model)
    cascade, info = load_model(path)
    if notes is None and model in available_models():
        notes = path.with_suffix(".md")
    pull_it = f"cascade-kp hub pull {repo}{'' if file == MODEL_FILE else f' --file {file}'} --out model.safetensors"
    rows = [f"| `{name}` | {count:,} | {what} |" for name, (count, what) in networks(cascade).items()]
    blocks = [
        _metadata(info),
        f"# {info.name}",
        f"A model of `cascade_kp` for the {len(info.scheme)} facial keypoints of the scheme `{info.scheme.name}`.",
        "It says where they are, in px of the picture, and of each the radius that holds 68 % of such errors.",
        "## Use",
        f"```\n{pull_it}\ncascade-kp predict photo.jpg --model model.safetensors\n```",
        "## Licence",
        info.licence or "Not stated.",
        "## Keypoints",
        _keypoints(info.scheme),
        "Left and right are the subject's. Coordinates are continuous: (0, 0) is the corner of the first pixel.",
        "## Networks",
        "\n".join(["| part | parameters | |", "|---|---|---|", *rows]),
        f"`{file}`: {path.stat().st_size:,} bytes, SHA-256 `{_sha256(path)}`.",
        "## Data",
        _table(info.data, "part"),
        "## Measured",
        *[block for metric in info.metrics for block in _measured(metric)],
        "" if info.metrics else "Nothing.",
        "## History",
        "\n".join(f"- {step.get('done', '?')} ({step.get('by', '?')})" for step in info.history) or "Not stated.",
        "" if notes is None else _as_written(Path(notes)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _metadata(info: ModelInfo) -> str:
    """The head of the card, which the hub reads; JSON is YAML."""
    head = {
        "library_name": "cascade_kp",
        "license": "other",
        "license_name": "see-the-card",
        "pipeline_tag": "keypoint-detection",
        "tags": ["face-alignment", "facial-keypoints", info.scheme.name],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---"])


def _keypoints(scheme: Scheme) -> str:
    """The names of the points, region by region, and at last those of none."""
    covered = {i for members in scheme.regions.values() for i in members}
    groups = dict(scheme.regions) | {"no region": tuple(i for i in range(len(scheme)) if i not in covered)}
    return "\n".join(
        f"- {name}: {', '.join(f'`{scheme.keypoints[i]}` ({i})' for i in members)}"
        for name, members in groups.items()
        if members
    )


def _measured(metric: object) -> list[str]:
    """A result of the header as the words of its protocol and a table of errors in %."""
    table = metric.get("nme") if isinstance(metric, dict) else None
    if not isinstance(metric, dict) or not isinstance(table, dict):
        return [f"```\n{json.dumps(metric)}\n```"]
    return [f"{metric.get('protocol', 'Protocol not stated')}. In %.", _table(table, "", 100.0)]


def _table(rows: Mapping[str, Any], corner: str, factor: float = 1.0) -> str:
    """A table of named rows of named cells, numbers times a factor; as JSON what is none."""
    if not rows or not all(isinstance(row, dict) and row for row in rows.values()):
        return f"```\n{json.dumps(dict(rows))}\n```" if rows else "Not stated."

    def cell(value: object) -> str:
        return f"{factor * value:.2f}" if isinstance(value, float) else "" if value is None else str(value)

    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [" | ".join([corner, *columns]), "|".join(["---"] * (len(columns) + 1))]
    lines += [" | ".join([name, *(cell(row.get(column)) for column in columns)]) for name, row in rows.items()]
    return "\n".join(f"| {line} |" for line in lines)


def _as_written(path: Path) -> str:
    """Notes below a heading of their own; links to files beside them would lead nowhere, and become plain text."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected notes as Markdown, got a file that cannot be read: {error}") from error
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)", r"\1", text)
    title, _, rest = text.partition("\n")
    return f"## {title.lstrip('# ')}\n\n{rest.strip()}" if title.startswith("# ") else f"## Notes\n\n{text.strip()}"
