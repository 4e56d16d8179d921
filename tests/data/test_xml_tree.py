from __future__ import annotations

import pytest

from cascade_kp.data.xml_tree import root_tag, walk_xml
from cascade_kp.errors import DataError

BOMB = """<?xml version="1.0"?>
<!DOCTYPE dataset [
<!ENTITY a "aaaaaaaaaa">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
]>
<dataset>&b;</dataset>
"""
EXTERNAL = '<!DOCTYPE dataset SYSTEM "file:///etc/passwd"><dataset/>'


def walk(tmp_path, text, root="dataset", each=("image",)):
    path = tmp_path / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = []
    walk_xml(path, root, each, found.append)
    return found


def test_elements_know_their_line_and_what_is_below(tmp_path):
    text = (
        "<dataset>\n<name>x</name>\n<image file='a'>\n<box top='1'>\n<part/></box></image>\n<image file='b'/></dataset>"
    )
    first, second = walk(tmp_path, text)
    assert (first.tag, first.text("file"), first.where) == ("image", "a", f"{tmp_path / 'a.xml'}:3")
    assert [child.tag for child in first.children] == ["box"]
    assert first.children[0].where.endswith(":4")
    assert first.children[0].number("top") == 1
    assert [child.tag for child in first.children[0].children] == ["part"]
    assert second.children == []


@pytest.mark.parametrize("text", [BOMB, EXTERNAL])
def test_a_document_type_is_refused_before_anything_is_expanded(tmp_path, text):
    with pytest.raises(DataError, match=r"a\.xml:\d: expected XML without a document type, got <!DOCTYPE dataset"):
        walk(tmp_path, text)
    with pytest.raises(DataError, match="without a document type"):
        root_tag(tmp_path / "a.xml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<dataset>\n<image>\n</dataset>", r"a\.xml:3: expected well-formed XML, got: mismatched tag"),
        ("", r"a\.xml:1: expected well-formed XML, got: no element found"),
        ("<dataset>&what;</dataset>", r"a\.xml:1: expected well-formed XML, got: undefined entity"),
        ("<other/>", r"a\.xml:1: expected <dataset>, got <other>"),
        ("<?xml version='1.0' encoding='no-such'?>\n<dataset/>", r"a\.xml:1: expected well-formed XML"),
    ],
)
def test_what_is_broken_is_named(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        walk(tmp_path, text)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot read the file"):
        walk_xml(tmp_path / "no.xml", "dataset", ("image",), print)
    with pytest.raises(DataError, match="cannot read the file"):
        root_tag(tmp_path / "no.xml")


def test_attributes_are_checked(tmp_path):
    (image,) = walk(tmp_path, "<dataset>\n<image width='0' height='x'/></dataset>")
    with pytest.raises(DataError, match=r"a\.xml:2: expected <image> with the attribute 'file', got width, height"):
        image.text("file")
    with pytest.raises(DataError, match=r"a\.xml:2: height: expected a number, got 'x'"):
        image.size()
    image.attributes["height"] = "3"
    with pytest.raises(DataError, match=r"expected a width and height of at least 1 px, got 0 x 3"):
        image.size()
    del image.attributes["width"]
    assert image.size() is None


def test_the_root_is_told_from_the_beginning(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<?xml version='1.0'?><!-- hello --><annotations>" + "<image/>" * 20000)
    assert root_tag(path) == "annotations"
    path.write_text("<")
    assert root_tag(path) == ""
    path.write_text("<1>")
    with pytest.raises(DataError, match="well-formed"):
        root_tag(path)


def test_other_encodings(tmp_path):
    text = "<?xml version='1.0' encoding='ISO-8859-1'?><dataset><image file='é'/></dataset>".encode("latin-1")
    assert walk(tmp_path, text)[0].text("file") == "é"


def test_elements_without_end_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"xml:1: expected at most 32 elements in one another"):
        walk(tmp_path, "<dataset><image>" + "<a>" * 100_000)
