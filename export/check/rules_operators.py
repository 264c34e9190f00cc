"""Rules about what single operators may be asked for."""

from __future__ import annotations

from foldcam.export.check import match_graph as match
from foldcam.export.check import sources
from foldcam.export.check.rule import (
    Rule,
    attribute_outside,
    every_entry,
    graph_input,
    more_outputs_than,
    not_constant,
    on,
)
from foldcam.export.check.targets import Version

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_POOLS = ("AveragePool", "MaxPool", "LpPool")
_COORDINATES: set[object] = {
    "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
}  # fmt: skip

# (id, operators, input, its name, versions below which it must be a constant: None for all)
_CONSTANT_INPUTS: tuple[tuple[str, tuple[str, ...], int, str, Version | None], ...] = (
    ("reduction-axes", _REDUCTIONS, 1, "axes", None),
    ("dropout-training-input", ("Dropout",), 2, "training_mode", None),
    ("stft-step", ("STFT",), 1, "frame_step", None),
    ("stft-window", ("STFT",), 2, "window", None),
    ("slice-axes", ("Slice",), 3, "axes", (10, 3)),
    ("pad-axes", ("Pad",), 3, "axes", (10, 4)),
    ("squeeze-axes", ("Squeeze", "Unsqueeze"), 1, "axes", (10, 7)),
    ("cumsum-axis", ("CumSum",), 1, "axis", (10, 8)),
)

_NO_GRAPH_INPUTS: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    ("squeeze-axes-input", ("Squeeze", "Unsqueeze"), 1, "axes"),
    ("resize-scales-input", ("Resize",), 2, "scales"),
    ("upsample-scales-input", ("Upsample",), 1, "scales"),
    ("onehot-depth-input", ("OneHot",), 1, "depth"),
)

OPERATOR_RULES = (
    *(
        Rule(
            id_,
            "error",
            on(*operators, test=not_constant(index, name)),
            "{operator} takes its {what} from the computed tensor {input!r}, and {target} must "
            "know them while it builds",
            "give them as a constant of the file; exporters do so where the axes do not depend on "
            "the input",
            sources.OPERATORS if before is None else sources.CHANGELOG,
            "parser" if before is None else "documented",
            before=before,
        )
        for id_, operators, index, name, before in _CONSTANT_INPUTS
    ),
    *(
        Rule(
            id_,
            "error",
            on(*operators, test=graph_input(index, name)),
            "{operator} takes its {what} from {input!r}, an input of the model, and TensorRT must "
            "know them while it builds",
            "export with fixed sizes, so that they become a constant of the file",
            sources.OPERATORS,
            # The parser lets the depth of OneHot pass.
            "documented" if operators == ("OneHot",) else "parser",
        )
        for id_, operators, index, name in _NO_GRAPH_INPUTS
    ),
    Rule(
        "topk-too-many",
        "error",
        match.topk_too_many,
        "TopK asks for the {k} greatest, and TensorRT gives {most} at most",
        "export with fewer --neighbors and --transfer rows (up to {most})",
        sources.OPERATORS,
        "builder",
    ),
    Rule(
        "topk-beyond-size",
        "error",
        match.topk_beyond_size,
        "TopK asks for the {k} greatest of {size}",
        "export with --neighbors and --transfer of {size} at most, or a larger bank",
        sources.OPERATORS,
        "builder",
    ),
    Rule(
        "resize-coordinates",
        "error",
        on(
            "Resize",
            test=attribute_outside("coordinate_transformation_mode", "half_pixel", _COORDINATES),
        ),
        "Resize with coordinate_transformation_mode={found} is not read",
        "resize with half_pixel (torch: interpolate with align_corners=False) or align_corners",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "resize-antialias",
        "error",
        on("Resize", test=attribute_outside("antialias", 0, {0})),
        "Resize with antialias=1 is not read",
        "resize without antialias in the network; shrink photographs in foldcam's preprocessing "
        "instead, before the graph",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "resize-aspect-ratio",
        "error",
        on("Resize", test=attribute_outside("keep_aspect_ratio_policy", "stretch", {"stretch"})),
        "Resize with keep_aspect_ratio_policy={found} is not read",
        "resize to the exact size (stretch); letterboxes belong into the preprocessing "
        "(--resize letterbox)",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "resize-cubic",
        "warning",
        on("Resize", test=attribute_outside("mode", "nearest", {"nearest", "linear"})),
        "Resize with mode={found}: only nearest and linear are documented",
        "resize linearly, or try it on the device (TensorRT-RTX's parser reads cubic)",
        sources.OPERATORS,
        "documented",
        flavours=frozenset({"tensorrt"}),
    ),
    Rule(
        "resize-scales",
        "error",
        match.scales_with_axes,
        "Resize takes computed scales for chosen axes, which is not read",
        "give the scales as a constant, or give sizes in their place",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "pool-window",
        "error",
        match.large_window,
        "{operator} has a window of {window}, and TensorRT takes up to {most} positions",
        "export with a smaller image size, or pool over everything with GlobalAveragePool or "
        "ReduceMean, which have no limit",
        sources.POOL_WINDOW,
        "parser",
    ),
    Rule(
        "pool-rank",
        "error",
        match.pool_rank,
        "{operator} pools over {rank} dimensions, and TensorRT over three at most",
        "pool in two steps",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "pool-dilations",
        "error",
        on(*_POOLS, test=every_entry("dilations", 1)),
        "{operator} with dilations={found} is not read",
        "use a pool without dilations in the network",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "pool-power",
        "error",
        on("LpPool", test=attribute_outside("p", 2, {1, 2})),
        "{operator} with p={found} is not read, only 1 and 2",
        "write the generalised mean as Pow, average pool and Pow, as torch's export does",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "second-output",
        "error",
        on("MaxPool", "LayerNormalization", "Attention", test=more_outputs_than(1)),
        "{operator} has {outputs} outputs and TensorRT gives only the first",
        "do not ask for the indices of a MaxPool or the statistics of a LayerNormalization; "
        "remove outputs that nobody reads",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "training-mode",
        "error",
        on("BatchNormalization", test=attribute_outside("training_mode", 0, {0})),
        "BatchNormalization is in training mode",
        "call eval() on the network before the export",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "attention-softcap",
        "error",
        on("Attention", test=attribute_outside("softcap", 0.0, {0.0})),
        "Attention with softcap={found:g} is not read",
        "write the attention out in the network (torch: attn_implementation='eager')",
        sources.OPERATORS,
        # Its parser refuses it, but its builder dies of any Attention on a machine without a GPU.
        "documented",
    ),
    Rule(
        "modulo-of-floats",
        "error",
        match.modulo_of_floats,
        "Mod with fmod=0 takes integers and gets {type}",
        "export torch.fmod in place of torch.remainder, or divide, round down and subtract",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "scatter-elements-reduction",
        "error",
        on("ScatterElements", test=attribute_outside("reduction", "none", {"none"})),
        "ScatterElements with reduction={found} is not read by TensorRT-RTX, which lacks the "
        "plugin for it",
        "replace it in the network, for instance with a one-hot MatMul",
        sources.CHANGELOG,
        "parser",
        flavours=frozenset({"tensorrt_rtx"}),
    ),
    Rule(
        "scatter-reduction",
        "error",
        on("ScatterND", test=attribute_outside("reduction", "none", {"none"})),
        "ScatterND with reduction={found} is not read",
        "replace it in the network, for instance with a one-hot MatMul",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "integer-operator",
        "error",
        match.integer_operator,
        "{operator} computes on integers, which TensorRT does not read: it wants QuantizeLinear "
        "and DequantizeLinear around float operators",
        "quantize in the QDQ format (foldcam calibrate; onnxruntime: quant_format=QuantFormat.QDQ)",
        sources.OPERATORS,
        "parser",
    ),
)
