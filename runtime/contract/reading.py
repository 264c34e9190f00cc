"""From the JSON document `foldcam` of a file to a `Contract`, every value checked."""

from __future__ import annotations

from foldcam.runtime.contract.bank_storage import (
    storage_from,
)
from foldcam.runtime.contract.canary import canary_from
from foldcam.runtime.contract.fields import Fields
from foldcam.runtime.contract.schema import (
    BASELINES,
    CONTRAST,
    GRAD_WEIGHTS_RULES,
    INPUT_TYPES,
    MAX_BANK_ROWS,
    MAX_LABEL_RUNS,
    MAX_SIDE,
    MAX_SIZE,
    OPTIONAL_OUTPUTS,
    PRECISIONS,
    RUNNER_UP_SIMILARITY,
    SCHEMA_VERSION,
    SCORE_KINDS,
    SUMMAND_KINDS,
    TRANSFORMS,
    BankInput,
    BankSummary,
    Calibration,
    Contract,
    Explanation,
    LabelRun,
    Origin,
    Outcome,
    Transform,
    check_size,
)
from foldcam.runtime.contract.unknown import (
    unknown_rule_from,
)
from foldcam.runtime.errors import (
    FoldcamError,
)
from foldcam.runtime.images.preprocess import (
    COLOR_ORDERS,
    RESIZE_RULES,
    ColorOrder,
    Preprocessing,
    ResizeRule,
)
from foldcam.runtime.system.strict_json import (
    parse_json,
)


def parse_contract(text: str, where: str) -> Contract:
    """Read the metadata document.

    Args:
        text: the JSON document.
        where: the file it came from, for the error messages.

    Raises:
        FoldcamError: not JSON, another schema version, a missing or wrong value.
    """
    check_size(text, 0, where)
    try:
        document = parse_json(text)
    except ValueError as error:
        raise FoldcamError(f"{where}: its foldcam metadata is not JSON ({error}).") from None
    root = Fields(document, where=f"{where}: foldcam metadata")
    version = root.integer("schema_version", low=0)
    if version != SCHEMA_VERSION:
        raise FoldcamError(
            f"{where}: its foldcam metadata has schema version {version} and this foldcam reads "
            f"{SCHEMA_VERSION}: export the model again, or install the foldcam that wrote it."
        )
    bank = _bank(root.section("bank"))
    labels = tuple(LabelRun(*run) for run in root.runs("labels", MAX_LABEL_RUNS))
    section = root.optional_section("outcome")
    calibrated = root.optional_section("calibration")
    explained = root.optional_section("explanation")
    unknown = root.optional_section("unknown")
    probes = root.optional_section("canary")
    outcome = None if section is None else _outcome(section)
    counted = sum(run.count for run in labels)
    if outcome is not None and labels:
        root.fail("labels", "are not empty although the outcome is continuous")
    section = root.optional_section("bank_input")
    bank_input = None if section is None else _bank_input(section)
    if bank_input is not None and labels:
        root.fail("labels", "are not empty although the bank is an input")
    if outcome is None and bank_input is None and counted != bank.rows:
        root.fail("labels", f"count {counted} rows and bank.rows says {bank.rows}")
    if outcome is not None and unknown is not None:
        root.fail("unknown", "is given although the outcome is continuous")
    outputs = () if explained is None else _optional_outputs(root)
    rule = None if unknown is None else unknown_rule_from(unknown, bank.sha256)
    if rule is not None and rule.score == "similarity_and_margin" and CONTRAST not in outputs:
        root.fail("unknown", f"needs the output {RUNNER_UP_SIMILARITY!r}, which the file has not")
    channels, map_height, map_width = root.integers("feature_map", 3, low=1, high=MAX_SIZE)
    heatmap_height, heatmap_width = root.integers("heatmap_size", 2, low=1, high=MAX_SIDE)
    canary = None
    if probes is not None:
        maps = heatmap_height, heatmap_width
        canary = canary_from(probes, bank.embedding_size, maps)
    return Contract(
        preprocessing=preprocessing_from(root.section("preprocessing")),
        input_type=root.choice("input_type", INPUT_TYPES),
        layer=root.text("layer"),
        feature_map=(channels, map_height, map_width),
        normalized=root.boolean("normalized"),
        heatmap_size=(heatmap_height, heatmap_width),
        transfer=root.integer("transfer", low=1, high=bank.rows),
        neighbors=root.integer("neighbors", low=1, high=bank.rows),
        bank=bank,
        labels=labels,
        origin=origin_from(root.section("origin")),
        versions=root.texts("versions"),
        outcome=outcome,
        # Files of before there was a choice do not say.
        precision=root.optional_choice("precision", PRECISIONS, "fp32"),
        calibration=None if calibrated is None else _calibration(calibrated),
        explanation=None if explained is None else _explanation(explained),
        optional_outputs=outputs,
        unknown=rule,
        bank_input=bank_input,
        query=root.boolean("query") if "query" in root else False,
        scores=root.choice("scores", SCORE_KINDS) if "scores" in root else None,
        frame=_frame(root) if "frame" in root else None,
        canary=canary,
    )


def _frame(root: Fields) -> tuple[int, int]:
    width, height = root.integers("frame", 2, low=1, high=MAX_SIDE)
    if root.choice("input_type", INPUT_TYPES) != "uint8":
        root.fail("frame", "is given although input_type is not uint8")
    return width, height


def preprocessing_from(fields: Fields) -> Preprocessing:
    """The preprocessing section of a document.

    Raises:
        FoldcamError: a value is missing or wrong; the message names it.
    """
    mean = fields.numbers("mean", 3)
    std = fields.numbers("std", 3)
    if min(abs(value) for value in std) < 1e-9:
        fields.fail("std", "must not be zero")
    resize: ResizeRule = fields.choice("resize", RESIZE_RULES)
    color: ColorOrder = fields.choice("color", COLOR_ORDERS)
    return Preprocessing(
        width=fields.integer("width", low=1, high=MAX_SIDE),
        height=fields.integer("height", low=1, high=MAX_SIDE),
        resize=resize,
        color=color,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def _bank(fields: Fields) -> BankSummary:
    # Rows are counted in int32 in the graph.
    rows = fields.integer("rows", low=1, high=MAX_BANK_ROWS)
    channels = fields.integer("channels", low=1, high=MAX_SIZE)
    section = fields.optional_section("storage")
    return BankSummary(
        rows=rows,
        embedding_size=fields.integer("embedding_size", low=1, high=MAX_SIZE),
        channels=channels,
        grad_weight_rows=fields.integer("grad_weight_rows", low=1, high=rows),
        objective=fields.text("objective"),
        channel_rule=fields.text("channel_rule"),
        compression=fields.text("compression"),
        sha256=fields.text("sha256"),
        storage=None if section is None else storage_from(section, rows, channels),
    )


def _calibration(fields: Fields) -> Calibration:
    return Calibration(
        key=fields.text("key"),
        report_sha256=fields.text("report_sha256"),
        kept_float=fields.integer("kept_float", low=0),
        target=fields.text("target"),
    )


def _explanation(fields: Fields) -> Explanation:
    return Explanation(
        summands=fields.choice("summands", SUMMAND_KINDS),
        baseline=fields.choice("baseline", BASELINES),
        grad_weights=fields.choice("grad_weights", GRAD_WEIGHTS_RULES),
        query=fields.integer("query", high=MAX_SIZE),
    )


def _bank_input(fields: Fields) -> BankInput:
    return BankInput(most_rows=fields.integer("most_rows", low=1, high=MAX_BANK_ROWS))


def _optional_outputs(root: Fields) -> tuple[str, ...]:
    """Those that this foldcam knows; a later one may have added others, which nobody reads."""
    names = root.strings("optional_outputs", 64)
    return tuple(name for name in OPTIONAL_OUTPUTS if name in names)


def _outcome(fields: Fields) -> Outcome:
    tau = fields.number("tau")
    if tau <= 0:
        fields.fail("tau", f"is {tau:g} and must be above zero")
    transform: Transform = fields.choice("transform", TRANSFORMS)
    low, median, high = (fields.number(name) for name in ("low", "median", "high"))
    if not low <= median <= high:
        fields.fail("median", f"is {median:g}, which does not lie between low and high")
    if transform == "log" and low <= 0:
        fields.fail("low", f"is {low:g}, which has no logarithm")
    return Outcome(tau, transform, low, median, high)


def origin_from(fields: Fields) -> Origin:
    """The origin section of a document.

    Raises:
        FoldcamError: a value is missing or wrong; the message names it.
    """
    return Origin(
        network=fields.text("network"),
        weights=fields.text("weights"),
        network_sha256=fields.text("network_sha256"),
        data=fields.text("data"),
        split=fields.text("split"),
        data_sha256=fields.text("data_sha256"),
    )
