"""The result files, as the blocks of the documentation read them: what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "ReadmeError", "Result", "Results"]

ROOT = Path(__file__).resolve().parents[2]


class ReadmeError(Exception):
    """A block or a result file that cannot be used; the message names it."""


class Result:
    """A result file, or a part of one, that says which key of which file is missing."""

    def __init__(self, value: dict[str, Any], where: str) -> None:
        self._value, self._where = value, where

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 (what JSON held)
        if key not in self._value:
            raise ReadmeError(f"{self._where}: expected the key {key!r}, found {', '.join(self._value) or 'none'}")
        value, where = self._value[key], f"{self._where}: {key}"
        if isinstance(value, dict):
            return Result(value, where)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return [Result(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return value

    def __contains__(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._value

    def get(self, key: str) -> Any:  # noqa: ANN401 (what JSON held)
        """The value, or None where there is none."""
        return self[key] if key in self._value else None

    def one(self, rows: str, **match: object) -> Result:
        """The one row of a list that has these values.

        Raises:
            ReadmeError: There is none, or there are several.
        """
        found: list[Result] = [row for row in self[rows] if all(row[key] == value for key, value in match.items())]
        if len(found) != 1:
            wanted = ", ".join(f"{key} {value!r}" for key, value in match.items())
            raise ReadmeError(f"{self._where}: {rows}: expected one row with {wanted}, found {len(found)}")
        return found[0]


class Results:
    """The result files of a folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Result] = {}

    def __getitem__(self, name: str) -> Result:
        if name not in self._read:
            path = self.folder / f"{name}.json"
            content = _load(path)
            if not isinstance(content, dict):
                raise ReadmeError(f"{path}: expected a JSON object, got {type(content).__name__}")
            self._read[name] = Result(content, str(path))
        return self._read[name]

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / f"{name}.json").is_file()

    def names(self) -> list[str]:
        """Names of all files that say which kind of result they are; that the others belong there is for the tests."""
        paths = [*sorted(self.folder.glob("*.json")), *sorted(self.folder.glob("zoo/*.json"))]
        contents = {path.relative_to(self.folder).with_suffix("").as_posix(): _load(path) for path in paths}
        return [name for name, content in contents.items() if isinstance(content, dict) and "kind" in content]


def _load(path: Path) -> object:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReadmeError(f"{path}: no such result file") from None
    except (OSError, ValueError) as error:
        raise ReadmeError(f"{path}: expected a result as JSON, got: {error}") from error
    return content
