"""Rules about the model as a whole: opset, files, sizes, domains, DLA."""

from __future__ import annotations

from foldcam.export.check import match_graph as match
from foldcam.export.check import sources
from foldcam.export.check.rule import Rule

GRAPH_RULES = (
    Rule(
        "opset-too-new",
        "error",
        match.opset_too_new,
        "the model is written in opset {opset} and the ONNX parser of {target} reads up to "
        "{newest}",
        "export it again with --opset {newest} or lower (foldcam writes 18, and 17 for "
        "TensorRT 8.6)",
        sources.OPSETS,
        # The parser reads newer files without a word, as far as it knows their operators.
        "documented",
    ),
    Rule(
        "opset-too-old",
        "error",
        match.opset_too_old,
        "the model is written in opset {opset} and the ONNX parser of {target} reads {oldest} "
        "and later",
        "export it again with --opset 17 or 18, or convert it with onnx.version_converter",
        sources.OPSETS,
        "documented",
    ),
    Rule(
        "not-of-the-opset",
        "error",
        match.not_of_the_opset,
        "opset {opset}, in which the model says it is written, does not have {what} of {operator}: "
        "a parser may read something else",
        "the exporter wrote a newer opset under an older number: export again and look at the "
        "opset that came out (foldcam export --opset 17 or 18 writes what it says)",
        sources.ONNX_OPERATORS,
        "documented",
    ),
    Rule(
        "unknown-operator",
        "error",
        match.unknown_operator,
        "the ONNX parser of {target} does not know the operator {operator} ({since})",
        "replace it in the network, or export with an opset in which the exporter writes simpler "
        "operators (--opset 17)",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "undated-operator",
        "warning",
        match.undated_operator,
        "no table says whether the ONNX parser of {target} already knows {operator}: {first} does",
        "export with an opset that does not have it (--opset 17), or try it on the device",
        sources.OPERATORS,
        "documented",
    ),
    Rule(
        "custom-operator",
        "error",
        match.custom_unknown,
        "{operator} is an operator of the domain {domain!r}, which TensorRT reads only as a "
        "plugin that the machine would have to have",
        "export the network without it; a model that ONNX Runtime has optimised must be exported "
        "again, unoptimised",
        sources.ONNX_PLUGINS,
        "parser",
    ),
    Rule(
        "custom-operator-by-name",
        "warning",
        match.custom_by_name,
        "{operator} is an operator of the domain {domain!r}, and TensorRT takes it for ONNX's own "
        "of that name, which may mean something else",
        "export the network with ONNX's own operators",
        sources.ONNX_PLUGINS,
        "parser",
    ),
    Rule(
        "local-function",
        "error",
        match.local_functions,
        "the model has functions of its own ({functions}), which {target} does not read",
        "expand them first with onnx.inliner.inline_local_functions",
        sources.CHANGELOG,
        "documented",
        before=(9, 0),
    ),
    Rule(
        "undefined-input",
        "error",
        match.undefined_input,
        "{operator} reads {value!r}, which nothing in the graph makes",
        "the file is damaged or was cut: export it again",
        sources.ONNX_IR,
        "parser",
    ),
    Rule(
        "external-data",
        "warning",
        match.external_data,
        "{count} of its constants lie in other files ({files}), which must come along",
        "copy them to the device beside the model, or save it as one file "
        "(onnx.save_model without save_as_external_data)",
        sources.ONNX_EXTERNAL,
        "documented",
    ),
    Rule(
        "dynamic-size",
        "warning",
        match.dynamic_size,
        "the input {value!r} leaves more open than its batch size: [{shape}]",
        "export with a fixed image size; an optimization profile must otherwise name every size, "
        "and CUDA graphs cannot be used",
        sources.DYNAMIC_SHAPES,
        "documented",
    ),
    Rule(
        "control-flow",
        "warning",
        match.control_flow,
        "{operator} makes the graph depend on data: TensorRT reads it with restrictions, builds "
        "its branches apart and cannot capture it in a CUDA graph",
        "export the network with torch.export, which follows one branch, or replace the condition",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "not-folded",
        "info",
        match.not_folded,
        "this is not a folded model: it has no foldcam metadata, so only TensorRT's rules are "
        "checked",
        "fold it with foldcam export or foldcam fold, if it should return heatmaps",
        sources.FOLDCAM,
        "documented",
    ),
    Rule(
        "dla",
        "info",
        match.dla_fallback,
        "DLA ({boards}): by their type {able} of {nodes} operators can run there; to the GPU fall "
        "back: {rest}",
        "DLA needs fp16 or int8 and a fixed batch size, and every change between DLA and GPU costs "
        "a copy: measure before choosing --dla",
        sources.DLA,
        "documented",
    ),
)
