"""The wheel and the source archive: the same bytes wherever they are built."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("tools.build", reason="needs a checkout, and its tools: pip install -e '.[dev]'")

from tools import build

EPOCH = 1_700_000_000
NAMES = [
    "pyproject.toml",
    "setup.cfg",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "small/__init__.py",
    "small/assets/a.toml",
]


@pytest.fixture
def project(tmp_path):
    """A package that is built as ours is, without our models of many megabytes."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs build: pip install -e '.[dev]'")
    folder = tmp_path / "project"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    for name in ("setup.cfg", "MANIFEST.in"):
        (folder / name).write_text((build.ROOT / name).read_text().replace("cascade_kp", "small"))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77.0.3"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "small"\nversion = "1.0"\nreadme = "README.md"\nlicense-files = ["LICENSE"]\n'
    )
    return folder


@pytest.mark.slow
def test_two_builds_are_the_same(project, tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    wheel, archive = build.build(project, NAMES, EPOCH, tmp_path / "dist")
    others = build.build_elsewhere(project, NAMES, EPOCH, tmp_path / "elsewhere")
    assert (
        [one.name for one in others] == [wheel.name, archive.name] == ["small-1.0-py3-none-any.whl", "small-1.0.tar.gz"]
    )
    assert [build.digest(one) for one in others] == [build.digest(wheel), build.digest(archive)]
    held = zipfile.ZipFile(wheel).infolist()
    assert {"small/__init__.py", "small/assets/a.toml"} <= {one.filename for one in held}
    assert {one.external_attr >> 16 & 0o777 for one in held} <= {0o644, 0o664}  # the latter of wheel's own RECORD
    assert {one.date_time for one in held} == {(2023, 11, 14, 22, 13, 20)}
    # And the comparison would see a difference: another time is another wheel.
    later, _ = build.build(project, NAMES, EPOCH + 2, tmp_path / "later")
    assert build.digest(later) != build.digest(wheel)


def test_a_plain_archive():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, mode in (("b/two.txt", 0o600), ("a.txt", 0o755)):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.uname, member.mtime = 3, mode, 7, "somebody", 12.5
            archive.addfile(member, io.BytesIO(name[:3].encode()))
    plain = build.plain_archive(packed.getvalue(), EPOCH)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = archive.getmembers()
        assert [one.name for one in members] == ["a.txt", "b/two.txt"]
        assert {(one.mode, one.uid, one.uname, one.mtime) for one in members} == {(0o644, 0, "", EPOCH)}
        assert archive.extractfile("b/two.txt").read() == b"b/t"
    assert build.plain_archive(plain, EPOCH) == plain


def test_the_time_is_the_commits(tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "stray.txt").write_text("not tracked")
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_DATE", f"{EPOCH} +0300")
        monkeypatch.setenv(f"GIT_{key}_NAME", "one")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "one@example.org")
    for command in (["init", "-q"], ["add", "a.txt"], ["commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert build.last_commit(tmp_path) == EPOCH
    assert build.tracked(tmp_path) == ["a.txt"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    assert build.last_commit(tmp_path) == 5


def test_the_umask_is_left_as_it_was(project, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(build, "build", lambda *_: seen.append(os.umask(0)) or os.umask(seen[-1]))
    before = os.umask(0)
    os.umask(before)
    build.build_elsewhere(project, NAMES, EPOCH, Path(tmp_path) / "elsewhere")
    assert seen == [0o077]
    assert os.umask(before) == before
