"""A bank's file folded into a network's file: swapping the bank of a model, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from foldcam.export.banks.bank import Bank, BankSource, needed_source
from foldcam.export.banks.unknown.rows import Rows
from foldcam.export.grafting.bank_input import bank_beside, with_directions
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.grafting.known_score import with_rule
from foldcam.export.grafting.options import StorageOptions, parse_compression
from foldcam.export.grafting.probes import probed
from foldcam.export.grafting.unfold import network_of
from foldcam.export.grafting.versions import tool_versions
from foldcam.export.networks.feature_map import UnknownLayerError
from foldcam.export.onnx_graphs.embedding_model import FEATURE_MAP, marked_network
from foldcam.export.onnx_graphs.message import load_message
from foldcam.runtime.contract.onnx_file import read_contract, read_header
from foldcam.runtime.contract.schema import (
    CONTRAST,
    EMBEDDING,
    METADATA_KEY,
    RUNNER_UP_SIMILARITY,
    Contract,
)
from foldcam.runtime.contract.unknown import UnknownRule
from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.files import atomic_path

# What takes part in folding, as opposed to exporting the network.
_FOLDING_TOOLS = ("foldcam", "numpy", "onnx", "python")


@dataclass(frozen=True)
class FoldReport:
    """What a fold did.

    Attributes:
        replaced: the contract of the folded model whose bank was replaced, else None.
        rule_dropped: whether that model had a rule for unknown images, which was chosen for
            another bank and is not in the new one.
    """

    path: Path
    contract: Contract
    replaced: Contract | None
    rule_dropped: bool = False


def fold_file(
    network_path: Path | str, bank: Bank, out: Path | str, options: FoldOptions | None = None
) -> FoldReport:
    """Fold a bank into a network's file, and write the folded model.

    Args:
        network_path: a folded model, whose bank is taken out; an embedding network as
            `Network.to_onnx` makes it; or any ONNX network that `load_model` takes. Only
            the last needs torch.
        bank: with its source; of that network.
        out: the folded model's file, which may be `network_path`.
        options: how the bank is folded; None takes `stored_options` of the network.

    Raises:
        FoldcamError: the bank is of another network, D or K, or does not say where it comes
            from; a file cannot be read or written.

    Example:
        >>> from pathlib import Path
        >>> from foldcam import Bank, build_bank_file, fold_file, load_dataset, load_model
        >>> from foldcam import parse_objective
        >>> built = build_bank_file(
        ...     load_model("my_network:make_network"), load_dataset("photos"),
        ...     Path("bank.safetensors"), parse_objective("proxy"))
        >>> folded = fold_file("model.onnx", Bank.load(built.path), "proxy.onnx")
        >>> folded.contract.bank.objective, folded.replaced.bank.objective
        ('proxy', 'all-triplets')
    """
    network_path, out = Path(network_path), Path(out)
    if out.suffix != ".onnx":
        raise FoldcamError(f"--out {out}: a folded model is an .onnx file.")
    source = needed_source(bank.source, "The bank")
    header = read_header(network_path)
    contract = read_contract(network_path) if METADATA_KEY in header.metadata else None
    with atomic_path(out) as temporary:
        if contract is not None:
            _check_replacement(network_path, contract, bank, source)
            network = network_of(load_message(network_path), contract)
        else:
            network = _embedding_network(network_path, bank, source)
        options = options or _options_of(contract)
        live = with_directions(bank, network, options.storage) if options.bank_input else None

        def folding(chosen: FoldOptions) -> onnx.ModelProto:
            return fold(
                network,
                bank,
                preprocessing=source.preprocessing,
                layer=source.layer,
                origin=source.origin,
                versions=_versions(contract),
                options=chosen,
            )

        # Probe pictures are of the size that the model takes.
        same = contract is not None and contract.frame == options.frame
        before = contract.canary if contract is not None and same else None
        folded = probed(folding, options, network, before)
        rule = None if contract is None else contract.unknown
        kept = _keeps(folded, rule, bank, live is not None)
        if kept:
            folded = with_rule(folded, rule, Rows.of(bank))
        onnx.save(folded, temporary)
        with bank_beside(temporary, out, live):
            pass
    return FoldReport(out, read_contract(out), contract, rule is not None and not kept)


def _keeps(folded: onnx.ModelProto, rule: UnknownRule | None, bank: Bank, live: bool) -> bool:
    """Whether a rule for unknown images holds for a model: of the same bank, which stays so."""
    outputs = {value.name for value in folded.graph.output}
    return (
        rule is not None
        and not live
        and rule.bank_sha256 == bank.sha256()
        and (rule.score != "similarity_and_margin" or RUNNER_UP_SIMILARITY in outputs)
    )


def _check_replacement(path: Path, contract: Contract, bank: Bank, source: BankSource) -> None:
    """Sizes first: they say more than two hashes."""
    if contract.scores is not None:
        raise FoldcamError(
            f"{path} is a classifier, whose bank is its own last layer: fold the bank into the "
            "network that it was built with."
        )
    needed = contract.feature_map[0]
    if bank.rule == "own":
        needed = contract.bank.embedding_size
    for what, has, needs in (
        ("D", bank.embedding_size, contract.bank.embedding_size),
        ("K", bank.channels, needed),
    ):
        if has != needs:
            raise FoldcamError(
                f"The bank has {what} = {has} and the network in {path} has {what} = {needs}: it "
                "was made by another network, so build the bank with this one."
            )
    _check_hash(path, contract.origin.network_sha256, bank)
    if source.layer != contract.layer:
        raise FoldcamError(
            f"The bank's grad-weights are those of the layer {source.layer!r} and {path} was "
            f"folded at {contract.layer!r}: build the bank with --layer {contract.layer}."
        )
    has_size = source.preprocessing.width, source.preprocessing.height
    needs_size = contract.preprocessing.width, contract.preprocessing.height
    if has_size != needs_size:
        raise FoldcamError(
            f"The bank's images were {has_size[0]} x {has_size[1]} and the network in {path} "
            f"takes {needs_size[0]} x {needs_size[1]}: build the bank with "
            f"--size {needs_size[0]}x{needs_size[1]}."
        )


def _check_hash(path: Path, sha256: str, bank: Bank) -> None:
    if sha256 != bank.network_sha256:
        raise FoldcamError(
            f"The bank was made by the network {bank.network_sha256[:12]}... and {path} holds "
            f"{sha256[:12]}...: build the bank with this network, or name the bank's own."
        )


def _embedding_network(path: Path, bank: Bank, source: BankSource) -> onnx.ModelProto:
    model = load_message(path)
    outputs = {value.name for value in model.graph.output}
    marked = marked_network(model)
    if marked is not None and {FEATURE_MAP, EMBEDDING} <= outputs:
        _check_hash(path, marked, bank)
        return model
    from foldcam.export.models.spec import load_model

    recipe = source.preprocessing
    try:
        network = load_model(str(path)).network(
            source.layer, (recipe.height, recipe.width), summands=bank.summands is not None
        )
    except UnknownLayerError:
        raise FoldcamError(
            f"The bank was made with another network, or with its torch module: {path} has no "
            f"layer {source.layer!r}; build the bank with this file, or swap the bank of a folded "
            "model."
        ) from None
    _check_hash(path, network.sha256(), bank)
    return network.to_onnx()


def stored_options(network_path: Path) -> FoldOptions:
    """How the bank of a folded model is folded; the defaults for a network without a bank.

    Args:
        network_path: an ONNX file. To change some options and keep the others, pass
            `dataclasses.replace(stored_options(path), neighbors=5)` to `fold_file`.

    Raises:
        FoldcamError: the file cannot be read.
    """
    folded = METADATA_KEY in read_header(network_path).metadata
    return _options_of(read_contract(network_path) if folded else None)


def _options_of(contract: Contract | None) -> FoldOptions:
    if contract is None:
        return FoldOptions()
    native = contract.heatmap_size == contract.feature_map[1:]
    return FoldOptions(
        transfer=contract.transfer,
        neighbors=contract.neighbors,
        heatmap_size="native" if native else contract.heatmap_size,
        input_type=contract.input_type,
        precision=contract.precision,
        storage=StorageOptions(compression=parse_compression(contract.bank.compression)),
        baseline=None if contract.explanation is None else contract.explanation.baseline,
        contrast=CONTRAST in contract.optional_outputs,
        bank_input=contract.bank_input is not None,
        query=contract.query,
        frame=contract.frame,
    )


def _versions(contract: Contract | None) -> dict[str, str]:
    """The network's exporters stay named; what folds now is of now."""
    here = tool_versions()
    if contract is None:
        return here
    now = {tool: here[tool] for tool in _FOLDING_TOOLS if tool in here}
    return {**contract.versions, **now}
