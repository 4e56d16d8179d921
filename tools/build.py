"""``python -m tools.build``: the wheel and the source archive, the same to the last bit wherever they are built.

What a build takes from its machine is taken away first: tracked files only, copied with plain modes; times are that of
the last commit; the archive's owner is nobody. What is left is Python's zlib and setuptools, whose versions are printed
with the hashes. ``--check`` builds once more, as on another machine, and compares.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
BUILD = (sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--quiet")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build into dist/; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.build", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="build twice, under other circumstances, and compare")
    checks = parser.parse_args(arguments).check
    names, epoch = tracked(ROOT), last_commit(ROOT)
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    built = build(ROOT, names, epoch, ROOT / "dist")
    for path in built:
        print(f"{digest(path)}  {path.relative_to(ROOT)}")
    versions = f"Python {platform.python_version()}, zlib {zlib.ZLIB_RUNTIME_VERSION}"
    print(f"{versions}, setuptools {importlib.metadata.version('setuptools')}; times of {epoch}", file=sys.stderr)
    if subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, check=True).stdout:
        print("There are changes that are not committed: nobody else gets these hashes.", file=sys.stderr)
    if checks:
        with tempfile.TemporaryDirectory() as folder:
            again = build_elsewhere(ROOT, names, epoch, Path(folder))
            others = [one.name for one, other in zip(built, again, strict=True) if digest(one) != digest(other)]
        if others:
            print(f"expected two builds of the same bytes, got others: {', '.join(others)}", file=sys.stderr)
            return 1
        print("Built twice, in two folders, with other modes, times, time zones and hash seeds: the same.")
    return 0


def build(
    source: Path, names: Sequence[str], epoch: int, out: Path, environment: Mapping[str, str] | None = None
) -> list[Path]:
    """Build the wheel and the source archive.

    Args:
        source: folder of the checkout.
        names: of its files that count.
        epoch: seconds since 1970 that every file is said to be from.
        out: folder for what is built.
        environment: variables to be set, beside those that are.

    Returns:
        The wheel and the archive.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            shutil.copyfile(source / name, copy / name)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        subprocess.run(
            [*BUILD, "--outdir", folder, str(copy)],
            env={**os.environ, **(environment or {}), "SOURCE_DATE_EPOCH": str(epoch)},
            umask=0o022,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (wheel,), (archive,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
        archive.write_bytes(plain_archive(archive.read_bytes(), epoch))
        out.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(path, out / path.name)) for path in (wheel, archive)]


def build_elsewhere(source: Path, names: Sequence[str], epoch: int, folder: Path) -> list[Path]:
    """Build as somebody else would: from another folder, with other modes, times, time zone, order and hash seed."""
    copy = folder / "a checkout of another user"
    for name in reversed(names):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy / name)
        (copy / name).chmod(0o700)
        os.utime(copy / name, (0, 1_000_000_000))
    environment = {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "LC_ALL": "C", "HOME": str(folder)}
    before = os.umask(0o077)
    try:
        return build(copy, names[::-1], epoch, folder / "dist", environment)
    finally:
        os.umask(before)


def plain_archive(content: bytes, epoch: int) -> bytes:
    """A .tar.gz with its members in order, from one time, of nobody, and readable for all."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(content)) as old,
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=epoch) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return packed.getvalue()


def tracked(root: Path) -> list[str]:
    """Names of the files that git keeps."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def last_commit(root: Path) -> int:
    """Its time in seconds since 1970, or what SOURCE_DATE_EPOCH says."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    told = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True, check=True)
    return int(told.stdout)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
