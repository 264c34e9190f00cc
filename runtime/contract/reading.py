"""From the JSON document `foldcam` of a file to a `Contract`, every value checked."""

from __future__ import annotations

from dataclasses import replace

from foldcam.runtime.contract.canary import PROBES_VERSION, ProbesVersion
from foldcam.runtime.contract.schema import OPTIONAL_OUTPUTS, SCHEMA_VERSION, Contract, check_size
from foldcam.runtime.system.documents import KeyProblem, Versioned, read_document
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import parse_json

# Their types have defaults for Python, which no file may leave to the reader.
_WHOLE = ("preprocessing", "explanation", "unknown")


def parse_contract(text: str, where: str) -> Contract:
    """Read the metadata document."""
    check_size(text, 0, where)
    where = f"{where}: foldcam metadata"
    try:
        document = parse_json(text)
    except ValueError as error:
        raise FoldcamError(f"{where} is not JSON ({error}).") from None
    version = read_document(Versioned, document, where).schema_version
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{where} has schema version {version} and this foldcam reads {SCHEMA_VERSION}: export "
            "the model again, or install the foldcam that wrote it."
        )
    probes = document.get("canary")
    if probes is not None:
        made = read_document(ProbesVersion, probes, f"{where}: canary").version
        document["canary"] = probes if made == PROBES_VERSION else None
    contract = read_document(Contract, document, where, _WHOLE)
    # A later foldcam may have added outputs, which nobody reads; an older one had none.
    named = contract.optional_outputs if contract.explanation else ()
    outputs = tuple(name for name in OPTIONAL_OUTPUTS if name in named)
    contract = replace(contract, optional_outputs=outputs)
    try:
        contract.check()
    except KeyProblem as problem:
        raise FoldcamError(f"{where}: {problem}") from None
    return contract
