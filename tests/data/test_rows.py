"""Laws of reading what others wrote."""

import pytest

from valor.data.rows import Row, json_rows, table_rows
from valor.errors import ManifestError


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": 2}]',
        '{"data": [{"a": 1}, {"a": 2}]}',
        '{"a": 1}\n\n{"a": 2}\n',
        '{\n "data": [{"a": 1},\n{"a": 2}]}',
        '\ufeff[\n{"a": 1}, {"a": 2}]',
    ],
)
def test_objects_come_in_a_list_under_data_or_in_lines(put, text):
    assert [row.id("a") for row in json_rows(put("rows.json", text))] == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, 7]', "item 2: line: int, expected an object"),
        ('[{"a": 1},\n oops]', "not JSON (Expecting value at line 2, column 2)"),
        ('{"a": 1}\n{"a"}', ":2: not JSON (Expecting ':' delimiter at column 5)"),
        ("7", ": int, expected a list of objects"),
    ],
)
def test_a_wrong_object_is_named(put, text, message):
    with pytest.raises(ManifestError) as error:
        list(json_rows(put("rows.json", text)))
    assert f"rows.json: {message}" in str(error.value) or f"rows.json{message}" in str(error.value)


def test_tables_are_separated_by_commas_or_tabs(put):
    commas = put("a.csv", 'x,y\r\n1,"two, ""2""\nlines"\r\n')
    tabs = put("a.tsv", 'x\ty\n1\t"two, 2\n')
    assert [row.values for row in table_rows(commas)] == [{"x": "1", "y": 'two, "2"\nlines'}]
    assert [row.values for row in table_rows(tabs)] == [{"x": "1", "y": '"two, 2'}]


def test_a_line_with_other_columns_is_an_error_unless_it_may(put):
    path = put("a.csv", "x,y\n1,2\n1,2,3\n1\n")
    with pytest.raises(ManifestError, match=r"a\.csv:3: 3 columns, expected 2"):
        list(table_rows(path))
    values = [row.values for row in table_rows(path, is_ragged=True)]
    assert values == [{"x": "1", "y": "2"}, {"x": "1", "y": "2"}, {"x": "1"}]


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("id", 1.5),
        ("id", True),
        ("id", " "),
        ("text", None),
        ("number", "1.5 s"),
        ("number", "nan"),
        ("number", [1]),
        ("texts", [1]),
        ("texts", {"a": "b"}),
        ("items", "abc"),
        ("seconds", "1"),
    ],
)
def test_a_value_of_another_kind_is_named(method, value):
    row = Row({"x": value}, "file:3", "clips[1].")
    with pytest.raises(ManifestError, match=r"^file:3: clips\[1\]\.x: .*expected"):
        getattr(row, method)("x")


def test_a_missing_field_says_what_there_is():
    with pytest.raises(ManifestError, match="file:3: z: missing field; there is x, y"):
        Row({"x": 1, "y": 2}, "file:3").id("z")
