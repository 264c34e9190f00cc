"""README and docs say what the stored results say."""

from __future__ import annotations

import pytest

from benchmarks.tables import documents, rewritten


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_tables_of_a_document_are_those_of_the_results(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert rewritten(text) == text, "run make figures"


def test_a_marker_of_a_table_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        rewritten("<!-- table: nothing -->\n<!-- /table -->")
