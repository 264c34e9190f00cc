"""The table of rules, in the order in which they are reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from foldcam.export.check import matchers as match
from foldcam.export.check.matchers import Matcher, nodes
from foldcam.export.check.targets import Flavour, Target, Version

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
Verified = Literal["parser", "builder", "documented"]

# Where the facts are published.
_DOCS = "https://docs.nvidia.com/deeplearning/tensorrt/latest"
OPERATORS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
CHANGELOG = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/Changelog.md"
PLUGINS = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/TRT_custom_ops.md"
UINT8_QUANTIZE = "https://github.com/onnx/onnx-tensorrt/pull/886"
OPSETS = f"{_DOCS}/reference/onnx-opset-guide.html"
QUANTIZATION = f"{_DOCS}/inference-library/quantized-types-explicit-quantization.html"
ELEMENTWISE = f"{_DOCS}/_static/c-api/classnvinfer1_1_1_i_element_wise_layer.html"
DYNAMIC_SHAPES = f"{_DOCS}/inference-library/work-dynamic-shapes.html"
DLA = f"{_DOCS}/inference-library/dla-layer-restrictions.html"
POOL_WINDOW = "https://github.com/NVIDIA/TensorRT/issues/2094"
ONNX_OPERATORS = "https://github.com/onnx/onnx/blob/main/docs/Changelog.md"
ONNX_IR = "https://github.com/onnx/onnx/blob/main/docs/IR.md"
ONNX_EXTERNAL = "https://github.com/onnx/onnx/blob/main/docs/ExternalData.md"
FOLDCAM = "https://arxiv.org/abs/2001.06538"


_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare"
)
# Operators that TensorRT refuses when their operands differ in type. BatchNormalization, Clip and
# Pow convert by themselves.
_SAME_TYPE = (
    "Add Sub Mul Div Max Min Sum Mean Mod Equal Greater GreaterOrEqual Less LessOrEqual MatMul "
    "Gemm Conv ConvTranspose Concat PRelu LayerNormalization Einsum Where"
)
_QUANTIZERS = "QuantizeLinear DequantizeLinear"
_UNKNOWN_TYPES = (
    "int16 uint16 uint32 uint64 uint4 int2 uint2 string complex64 complex128 float8e4m3fnuz "
    "float8e5m2 float8e5m2fnuz float8e8m0"
)


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        id: short name, also in `--json`.
        matches: finds the places in a model.
        sentence: what is wrong; `{...}` from the place, and `{target}`, `{operator}`.
        remedy: which option of foldcam or which change avoids it, with the same braces.
        severity: `error` where TensorRT refuses the model or would compute something else,
            `warning` where it may, `info` for what is good to know.
        verified: `parser` or `builder` where the tests confirm it, both ways, with
            TensorRT-RTX's real ONNX parser or builder; `documented` where they cannot.
        source: where the fact is published.
        since, before: the versions of TensorRT it holds for, from `since` to below `before`.
        flavour: the one TensorRT it holds for; None for both.
    """

    id: str
    matches: Matcher
    sentence: str
    remedy: str
    severity: Severity = "error"
    verified: Verified = "parser"
    source: str = OPERATORS
    since: Version = (0, 0)
    before: Version = (99, 0)
    flavour: Flavour | None = None

    def holds_for(self, target: Target) -> bool:
        """Whether the rule is about this target."""
        return self.flavour in (None, target.flavour) and self.since <= target.version < self.before


_MODEL_RULES = (
    Rule(
        "opset-too-new",
        match.model(lambda at: at.view.opset > at.target.newest_opset),
        "the model is written in opset {view.opset} and the ONNX parser of {target.title} reads "
        "up to {target.newest_opset}",
        "export it again with --opset {target.newest_opset} or lower (foldcam writes 18, and 17 "
        "for TensorRT 8.6)",
        # The parser reads newer files without a message, as far as it knows their operators.
        verified="documented",
        source=OPSETS,
    ),
    Rule(
        "opset-too-old",
        match.model(lambda at: at.view.opset < at.target.oldest_opset),
        "the model is written in opset {view.opset} and the ONNX parser of {target.title} reads "
        "{target.oldest_opset} and later",
        "export it again with --opset 17 or 18, or convert it with onnx.version_converter",
        verified="documented",
        source=OPSETS,
    ),
    Rule(
        "not-of-the-opset",
        nodes(where=match.newer_form),
        "opset {view.opset}, in which the model says it is written, does not have {what} of "
        "{node.op}: a parser may read something else",
        "the exporter wrote a newer opset under an older number: export again and look at the "
        "opset that came out (foldcam export --opset 17 or 18 writes what it says)",
        verified="documented",
        source=ONNX_OPERATORS,
    ),
    Rule(
        "unknown-operator",
        nodes(where=match.unknown_operator),
        "the ONNX parser of {target.title} does not know the operator {node.op} ({since})",
        "replace it in the network, or export with an opset in which the exporter writes simpler "
        "operators (--opset 17)",
    ),
    Rule(
        "undated-operator",
        nodes(where=match.undated_operator),
        "no table says whether the parser of {target.title} already knows {node.op}: {first} does",
        "export with an opset that does not have it (--opset 17), or try it on the device",
        "warning",
        "documented",
    ),
    Rule(
        "custom-operator",
        match.foreign_nodes(lambda at: not at.target.knows(at.node.op)),
        "{node.op} is an operator of the domain {node.domain!r}, which TensorRT reads only as a "
        "plugin that the machine would have to have",
        "export the network without it; a model that ONNX Runtime has optimised must be exported "
        "again, unoptimised",
        source=PLUGINS,
    ),
    Rule(
        "custom-operator-by-name",
        match.foreign_nodes(lambda at: at.target.knows(at.node.op)),
        "{node.op} is an operator of the domain {node.domain!r}, and TensorRT takes it for ONNX's "
        "own of that name, which may mean something else",
        "export the network with ONNX's own operators",
        "warning",
        source=PLUGINS,
    ),
    Rule(
        "local-function",
        match.model(match.local_functions),
        "the model has functions of its own ({functions}), which {target.title} does not read",
        "expand them first with onnx.inliner.inline_local_functions",
        verified="documented",
        source=CHANGELOG,
        before=(9, 0),
    ),
    Rule(
        "undefined-input",
        match.undefined_input,
        "{node.op} reads {value!r}, which nothing in the graph makes",
        "the file is damaged or was cut: export it again",
        source=ONNX_IR,
    ),
    Rule(
        "external-data",
        match.model(match.external_data),
        "{count} of its constants lie in other files ({files}), which must be copied as well",
        "copy them to the device beside the model, or save it as one file "
        "(onnx.save_model without save_as_external_data)",
        "warning",
        "documented",
        ONNX_EXTERNAL,
    ),
    Rule(
        "dynamic-size",
        match.open_sizes,
        "the input {value!r} leaves more open than its batch size: [{shape}]",
        "export with a fixed image size; an optimization profile must otherwise name every size, "
        "and CUDA graphs cannot be used",
        "warning",
        "documented",
        DYNAMIC_SHAPES,
    ),
    Rule(
        "control-flow",
        nodes("If Loop Scan"),
        "{node.op} makes the graph depend on data: TensorRT reads it with restrictions, builds "
        "its branches separately and cannot capture it in a CUDA graph",
        "export the network with torch.export, which follows one branch, or replace the condition",
        "warning",
    ),
    Rule(
        "not-folded",
        match.model(match.not_folded),
        "this is not a folded model: it has no foldcam metadata, so only TensorRT's rules are "
        "checked",
        "fold it with foldcam export or foldcam fold, if it should return heatmaps",
        "info",
        "documented",
        FOLDCAM,
    ),
    Rule(
        "dla",
        match.model(match.on_dla),
        "DLA ({target.dla}): by their type {able} of {nodes} operators can run there; the GPU runs "
        "the others: {rest}",
        "DLA needs fp16 or int8 and a fixed batch size, and every change between DLA and GPU costs "
        "a copy: measure before choosing --dla",
        "info",
        "documented",
        DLA,
    ),
)

# (id, operator, attribute, its default, what may be in it, advice)
_ATTRIBUTES: tuple[tuple[str, str, str, object, tuple[object, ...], str], ...] = (
    (
        "resize-coordinates", "Resize", "coordinate_transformation_mode", "half_pixel",
        ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
        "resize with half_pixel (torch: interpolate with align_corners=False) or align_corners",
    ),
    (
        "resize-antialias", "Resize", "antialias", 0, (0,),
        "resize without antialias in the network; shrink photographs in foldcam's preprocessing "
        "instead, before the graph",
    ),
    (
        "resize-aspect-ratio", "Resize", "keep_aspect_ratio_policy", "stretch", ("stretch",),
        "resize to the exact size (stretch); letterboxes belong into the preprocessing "
        "(--resize letterbox)",
    ),
    (
        "pool-dilations", "AveragePool MaxPool LpPool", "dilations", [], (1,),
        "use a pool without dilations in the network",
    ),
    (
        "pool-power", "LpPool", "p", 2, (1, 2),
        "write the generalised mean as Pow, average pool and Pow, as torch's export does",
    ),
    (
        "training-mode", "BatchNormalization", "training_mode", 0, (0,),
        "call eval() on the network before the export",
    ),
    (
        "scatter-reduction", "ScatterND", "reduction", "none", ("none",),
        "replace it in the network, for instance with a one-hot MatMul",
    ),
)  # fmt: skip

_OPERATOR_RULES = (
    *(
        Rule(
            id_,
            nodes(operators, match.attribute(name, default, allowed)),
            f"{{node.op}} with {name}={{found}} is not read",
            remedy,
        )
        for id_, operators, name, default, allowed, remedy in _ATTRIBUTES
    ),
    Rule(
        "attention-softcap",
        nodes("Attention", match.attribute("softcap", 0.0, (0.0,))),
        "Attention with softcap={found:g} is not read",
        "write the attention out in the network (torch: attn_implementation='eager')",
        # Its parser refuses it, but its builder dies of any Attention on a machine without a GPU.
        verified="documented",
    ),
    Rule(
        "scatter-elements-reduction",
        nodes("ScatterElements", match.attribute("reduction", "none", ("none",))),
        "ScatterElements with reduction={found} is not read by TensorRT-RTX, which lacks the "
        "plugin for it",
        "replace it in the network, for instance with a one-hot MatMul",
        source=CHANGELOG,
        flavour="tensorrt_rtx",
    ),
    Rule(
        "resize-cubic",
        nodes("Resize", match.attribute("mode", "nearest", ("nearest", "linear"))),
        "Resize with mode={found}: only nearest and linear are documented",
        "resize linearly, or try it on the device (TensorRT-RTX's parser reads cubic)",
        "warning",
        "documented",
        flavour="tensorrt",
    ),
    Rule(
        "reduction-axes",
        nodes(_REDUCTIONS, match.computed_axes),
        "{node.op} takes its axes from {node.inputs[1]!r}, which is no constant of the file, and "
        "{target.title} must know them while it builds",
        "give them as a constant of the file; exporters do so where the axes do not depend on "
        "the input",
    ),
    Rule(
        "topk-too-many",
        nodes("TopK", match.topk_too_many),
        "TopK asks for the {k} greatest, and TensorRT gives {most} at most",
        "export with fewer --neighbors and --transfer rows (up to {most})",
        verified="builder",
    ),
    Rule(
        "topk-beyond-size",
        nodes("TopK", match.topk_beyond_size),
        "TopK asks for the {k} greatest of {size}",
        "export with --neighbors and --transfer of {size} at most, or a larger bank",
        verified="builder",
    ),
    Rule(
        "pool-window",
        nodes("AveragePool MaxPool LpPool", match.large_window),
        "{node.op} has a window of {window}, and TensorRT takes up to {most} positions",
        "export with a smaller image size, or pool over everything with GlobalAveragePool or "
        "ReduceMean, which have no limit",
        source=POOL_WINDOW,
    ),
    Rule(
        "second-output",
        nodes("MaxPool LayerNormalization Attention", match.several_outputs),
        "{node.op} has {outputs} outputs and TensorRT gives only the first",
        "do not ask for the indices of a MaxPool or the statistics of a LayerNormalization; "
        "remove outputs that nothing reads",
    ),
    Rule(
        "integer-operator",
        nodes(match.INTEGER_OPERATORS),
        "{node.op} computes on integers, which TensorRT does not read: it needs QuantizeLinear "
        "and DequantizeLinear around float operators",
        "quantize in the QDQ format (foldcam calibrate; onnxruntime: quant_format=QuantFormat.QDQ)",
    ),
)

# (id and name of the type, ONNX's name, first TensorRT that has it, advice)
_LATER_TYPES: tuple[tuple[str, str, Version, str], ...] = (
    ("bfloat16", "bfloat16", (9, 0), "export with --precision fp16 or fp32"),
    (
        "float8", "float8e4m3fn", (9, 0),
        "export with --precision fp16, or quantize to int8 (foldcam calibrate)",
    ),
    ("int4", "int4", (10, 0), "quantize to int8 (foldcam calibrate)"),
    ("float4", "float4e2m1", (10, 8), "quantize to int8 (foldcam calibrate)"),
)  # fmt: skip

_TYPE_RULES = (
    Rule(
        "unknown-type",
        match.types(*_UNKNOWN_TYPES.split()),
        "{value!r} is of type {type}, which TensorRT does not have",
        "export with float32 or float16 values and int32 or int64 indices",
    ),
    *(
        Rule(
            id_,
            match.types(name),
            f"{{value!r}} is of type {id_}, which {{target.title}} does not have",
            remedy,
            verified="documented",
            source=CHANGELOG,
            before=first,
        )
        for id_, name, first, remedy in _LATER_TYPES
    ),
    Rule(
        "not-a-tensor",
        match.not_tensors,
        "{value!r} is not a tensor: TensorRT has no sequences, optional values or sparse tensors",
        "let the network take and return tensors",
    ),
    Rule(
        "float64",
        match.types("float64"),
        "{value!r} is of type float64, which TensorRT computes in float32",
        "export the network with float32 (model.float())",
        "warning",
    ),
    Rule(
        "mixed-operands",
        nodes(_SAME_TYPE, match.mixed_operands),
        "{node.op} has operands of {types}, and TensorRT needs one type",
        "cast explicitly; foldcam export --precision fp16 does so",
        source=ELEMENTWISE,
    ),
    Rule(
        "uint8-first-operator",
        nodes(where=match.uint8_not_cast),
        "{node.op} reads {value!r}, which is uint8: the first operator on it must be Cast",
        "export with --input uint8, which casts before it transposes, or put the Cast first",
    ),
    Rule(
        "uint8-inside",
        nodes("Cast CastLike Clip Where ConstantOfShape Range", match.uint8_made),
        "{node.op} makes {value!r} uint8 inside of the graph: only inputs and outputs may be",
        "cast to int32 or float16 instead",
    ),
    Rule(
        "uint8-constant",
        match.constants("uint8"),
        "the constant {value!r} is uint8, which is documented for inputs and outputs only",
        "store it as int32 or float16",
        "warning",
        "documented",
        flavour="tensorrt",
    ),
    Rule(
        "int64-output",
        match.int64_outputs,
        "the output {value!r} is int64: TensorRT gives int32 up to 8.6 and int64 from 9.0 on",
        "cast it to int32 in the graph, as foldcam does",
        "info",
        "documented",
        CHANGELOG,
    ),
)

_QUANTIZED_RULES = (
    Rule(
        "zero-point",
        nodes(_QUANTIZERS, match.constant_with(2, lambda values: values != 0)),
        "{node.op} has a zero point of {found:g}, and TensorRT takes only 0",
        "quantize symmetrically to int8 (foldcam calibrate; onnxruntime: ActivationSymmetric and "
        "WeightSymmetric)",
    ),
    Rule(
        "int32-bias",
        nodes("DequantizeLinear", lambda at: at.dtype(0) == "int32"),
        "DequantizeLinear reads {node.inputs[0]!r}, which is int32: TensorRT takes only quantized "
        "types, and a bias stays float",
        "leave biases in float32 (foldcam calibrate does; onnxruntime: "
        "extra_options={{'QuantizeBias': False}})",
    ),
    Rule(
        "uint8-dequantize",
        nodes("DequantizeLinear", match.uint8_dequantized),
        "DequantizeLinear reads {node.inputs[0]!r}, which is uint8: TensorRT takes int8",
        "quantize weights to int8 (foldcam calibrate; onnxruntime: weight_type=QuantType.QInt8)",
    ),
    Rule(
        "scale",
        nodes(_QUANTIZERS, match.constant_with(1, lambda values: ~(values > 0))),
        "{node.op} has a scale of {found:g}, and TensorRT takes only scales above zero",
        "calibrate on images that make the tensor vary, or leave it in float",
        source=QUANTIZATION,
    ),
    Rule(
        "quantized-constant",
        match.constants("int8", "int4", "float8e4m3fn", "float4e2m1"),
        "{node.op} reads the {type} constant {value!r}, and TensorRT allows such constants only "
        "before DequantizeLinear",
        "put DequantizeLinear first, or store indices and tables as int32 or float16",
        verified="builder",
        source=QUANTIZATION,
    ),
    Rule(
        "uint8-quantize",
        nodes("QuantizeLinear", match.uint8_quantized),
        "QuantizeLinear makes uint8 (also where its zero point is left out), and {target.title} "
        "quantizes to int8 only",
        "quantize to int8 with a zero point of type int8 (foldcam calibrate; onnxruntime: "
        "activation_type=QuantType.QInt8)",
        verified="documented",
        source=UINT8_QUANTIZE,
        before=(10, 10),
    ),
    Rule(
        "quantize-name",
        match.repeated_names,
        "{node.op} has the name of another one, and TensorRT-RTX needs these to be distinct",
        "give every QuantizeLinear and DequantizeLinear a name of its own, or none",
        source=QUANTIZATION,
        flavour="tensorrt_rtx",
    ),
    Rule(
        "quantize-name-shared",
        match.repeated_names,
        "{node.op} has the name of another one, which TensorRT-RTX refuses ({target.title} "
        "was not tried)",
        "give every QuantizeLinear and DequantizeLinear a name of its own, or none",
        "warning",
        "documented",
        QUANTIZATION,
        flavour="tensorrt",
    ),
    Rule(
        "activation-per-channel",
        nodes("QuantizeLinear", match.per_channel_activation),
        "QuantizeLinear has {scales} scales for a computed tensor: only weights are quantized per "
        "channel fast",
        "quantize activations per tensor and weights per channel",
        "warning",
        "documented",
        QUANTIZATION,
    ),
    Rule(
        "float-input",
        nodes("Conv ConvTranspose Gemm MatMul", match.only_weights_quantized),
        "{node.op} has quantized weights and a float input, so it runs in float",
        "quantize its input as well, or leave both in float",
        "info",
        "documented",
        QUANTIZATION,
    ),
    Rule(
        "residual",
        nodes("Add", match.float_residual),
        "Add joins a quantized convolution with a float tensor, which costs the fused int8 path",
        "quantize the identity input of the residual Add",
        "info",
        "documented",
        QUANTIZATION,
    ),
)

RULES: tuple[Rule, ...] = (*_MODEL_RULES, *_OPERATOR_RULES, *_TYPE_RULES, *_QUANTIZED_RULES)
