"""What is written as YAML is read back as what it was."""

from io import StringIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.projects.yaml import documents, to_yaml

ruamel = pytest.importorskip("ruamel.yaml", reason="ruamel.yaml reads YAML")


def read(text: str) -> Any:
    return ruamel.YAML(typ="safe", pure=True).load(StringIO(text))


TEXTS = st.text(alphabet="ab1 :#-'\"\\{}[],&*!|>%@`?~\n\té\x07\u2028\U0001f41f", max_size=8)
NASTY = st.sampled_from(
    ["yes", "No", "on", "~", "null", "1e3", "0x1f", "- a", "a: b", "a #b", "", " a", "a ", "*x", "&y"]
)
LINES = st.lists(st.sampled_from(["a", "", "  b: c", "# d", "---", "\\n", "$x"]), min_size=1).map(
    lambda x: "e" + "\n".join(x) + "\n"
)
SCALARS = st.one_of(st.booleans(), st.none(), st.integers(-9999, 9999), TEXTS, NASTY, LINES)
KEYS = st.one_of(TEXTS, NASTY)
DATA = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=4), st.dictionaries(KEYS, v, max_size=4)), max_leaves=12
)


@settings(max_examples=60)
@given(value=DATA)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read(to_yaml(value)) == value


@pytest.mark.parametrize("text", ["a\n", "a\n\n", "a\n\n\n  b\n", "#!/bin/sh\nx: 1\n", "\ta\n", "a\n b", "é\n"])
def test_texts_of_several_lines_keep_them(text: str) -> None:
    assert read(to_yaml({"script": text, "after": [text, 1]})) == {"script": text, "after": [text, 1]}


def test_several_documents_stand_behind_one_comment() -> None:
    text = documents([{"a": 1}, {"b": 2}], "made by\n\nshoal")
    assert text == "# made by\n#\n# shoal\na: 1\n---\nb: 2\n"
