"""The figures of the checks, as the documents show them."""

from __future__ import annotations

from typing import Any

from foldcam.benchmarks.studies.reliability.__main__ import available


def markdown_table(name: str, document: dict[str, Any]) -> str:
    """One check's figures."""
    lines = ["| what | figure |", "|---|---|"]
    lines += [f"| {what} | {figure} |" for what, figure in available()[name].rows(document)]
    verdict = "passed" if document["passed"] else "**did not pass**"
    form = "full form" if document["full"] else "short form"
    return "\n".join([*lines, "", f"The {form} {verdict}, in {document['seconds']:.0f} s."])
