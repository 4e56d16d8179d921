"""XML of annotation tools, read so that it can do no harm and that messages can name the line.

Neither annotation format has a document type, so one is refused: without it there are no entities to expand or to
fetch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.parsers import expat

from cascade_kp.errors import DataError
from cascade_kp.formats import parse_number

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Element", "root_tag", "walk_xml"]

_SNIFFED = 1 << 16
_MAX_DEPTH = 32  # of elements in one that is wanted; the formats have three


@dataclass(slots=True)
class Element:
    """An element with all that is below it.

    Attributes:
        tag: Its name.
        attributes: By name.
        where: ``file:line`` of its start.
        children: The elements directly below, in order.
    """

    tag: str
    attributes: dict[str, str]
    where: str
    children: list[Element] = field(default_factory=list)

    def text(self, name: str) -> str:
        """An attribute that must be there.

        Raises:
            DataError: It is not.
        """
        value = self.attributes.get(name)
        if value is None:
            got = ", ".join(self.attributes) or "none"
            raise DataError(f"{self.where}: expected <{self.tag}> with the attribute {name!r}, got {got}")
        return value

    def number(self, name: str) -> float:
        """An attribute that must be there and a finite number.

        Raises:
            DataError: It is not.
        """
        return parse_number(self.text(name).strip(), f"{self.where}: {name}")

    def size(self) -> tuple[int, int] | None:
        """(h, w) px where both ``height`` and ``width`` are given.

        Raises:
            DataError: They are no numbers of at least 1.
        """
        if "width" not in self.attributes or "height" not in self.attributes:
            return None
        h, w = int(self.number("height")), int(self.number("width"))
        if h < 1 or w < 1:
            raise DataError(f"{self.where}: expected a width and height of at least 1 px, got {w} x {h}")
        return h, w


def walk_xml(path: Path, root: str, each: tuple[str, ...], take: Callable[[Element], None]) -> None:
    """Read an XML file and hand over its elements of some kinds, one by one: a file may be larger than memory.

    Args:
        path: The file.
        root: What its outermost element must be.
        each: The tags of the elements wanted; what lies in one of them is part of it.
        take: Called with each of them when it is complete.

    Raises:
        DataError: The file cannot be read, is no well-formed XML, has a document type, or another root.
    """
    parser = _parser(path)
    walk = _Walk(path, parser, root, each, take)
    parser.StartElementHandler, parser.EndElementHandler = walk.start, walk.end
    try:
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except OSError as error:
        raise DataError(f"{path}:1: cannot read the file: {error.strerror or error}") from error
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise DataError(f"{path}:{error.lineno}: expected well-formed XML, got: {reason}") from error
    except DataError:
        raise
    except (LookupError, ValueError) as error:  # an encoding that is none
        raise DataError(f"{path}:1: expected well-formed XML, got: {error}") from error


class _Walk:
    """What happens at the start and at the end of each element."""

    def __init__(
        self, path: Path, parser: expat.XMLParserType, root: str, each: tuple[str, ...], take: Callable[[Element], None]
    ) -> None:
        self.path, self.parser, self.root, self.each, self.take = path, parser, root, each, take
        self.begun = False
        self.open: list[Element] = []  # the wanted element and those open below it

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        where = f"{self.path}:{self.parser.CurrentLineNumber}"
        if not self.begun and tag != self.root:
            raise DataError(f"{where}: expected <{self.root}>, got <{tag}>")
        self.begun = True
        if len(self.open) == _MAX_DEPTH:
            raise DataError(f"{where}: expected at most {_MAX_DEPTH} elements in one another, got more")
        if self.open or tag in self.each:
            element = Element(tag, attributes, where)
            if self.open:
                self.open[-1].children.append(element)
            self.open.append(element)

    def end(self, _: str) -> None:
        if self.open:
            element = self.open.pop()
            if not self.open:
                self.take(element)


def root_tag(path: Path) -> str:
    """The name of the outermost element of an XML file; empty if its beginning holds none.

    Raises:
        DataError: The file cannot be read, or has a document type.
    """
    parser = _parser(path)
    found: list[str] = []
    parser.StartElementHandler = lambda tag, _: found.append(tag)
    try:
        with path.open("rb") as stream:
            parser.Parse(stream.read(_SNIFFED), False)  # noqa: FBT003 (there may be more)
    except OSError as error:
        raise DataError(f"{path}:1: cannot read the file: {error.strerror or error}") from error
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        if not found:
            raise DataError(f"{path}:1: expected well-formed XML, got: {error}") from error
    return found[0] if found else ""


def _parser(path: Path) -> expat.XMLParserType:
    parser = expat.ParserCreate()

    def refuse(name: str, *_: object) -> None:
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: expected XML without a document type, got <!DOCTYPE {name}"
        )

    parser.StartDoctypeDeclHandler = refuse
    return parser
