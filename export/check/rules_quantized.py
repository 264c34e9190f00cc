"""Rules about quantized models: what Q and DQ may hold, and where they should stand."""

from __future__ import annotations

from foldcam.export.check import match_quantized as match
from foldcam.export.check import sources
from foldcam.export.check.rule import Rule

QUANTIZED_RULES = (
    Rule(
        "zero-point",
        "error",
        match.nonzero_zero_point,
        "{operator} has a zero point of {found}, and TensorRT takes only 0",
        "quantize symmetrically to int8 (foldcam calibrate; onnxruntime: ActivationSymmetric and "
        "WeightSymmetric)",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "int32-bias",
        "error",
        match.int32_dequantized,
        "DequantizeLinear reads {value!r}, which is int32: TensorRT takes only quantized types, "
        "and a bias stays float",
        "leave biases in float32 (foldcam calibrate does; onnxruntime: "
        "extra_options={{'QuantizeBias': False}})",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "uint8-dequantize",
        "error",
        match.uint8_dequantized,
        "DequantizeLinear reads {value!r}, which is uint8: TensorRT takes int8",
        "quantize weights to int8 (foldcam calibrate; onnxruntime: weight_type=QuantType.QInt8)",
        sources.OPERATORS,
        "parser",
    ),
    Rule(
        "scale",
        "error",
        match.scale_not_positive,
        "{operator} has a scale of {found:g}, and TensorRT takes only scales above zero",
        "calibrate on images that make the tensor vary, or leave it in float",
        sources.QUANTIZATION,
        "parser",
    ),
    Rule(
        "quantized-constant",
        "error",
        match.quantized_constant,
        "{operator} reads the {type} constant {value!r}, and TensorRT allows such constants only "
        "before DequantizeLinear",
        "put DequantizeLinear first, or store indices and tables as int32 or float16",
        sources.QUANTIZATION,
        "builder",
    ),
    Rule(
        "uint8-quantize",
        "error",
        match.uint8_quantized,
        "QuantizeLinear makes uint8 (also where its zero point is left out), and {target} "
        "quantizes to int8 only",
        "quantize to int8 with a zero point of type int8 (foldcam calibrate; onnxruntime: "
        "activation_type=QuantType.QInt8)",
        sources.UINT8_QUANTIZE,
        "documented",
        before=(10, 10),
    ),
    Rule(
        "quantize-name",
        "error",
        match.name_taken,
        "{operator} has the name of another one, and TensorRT-RTX wants these to be distinct",
        "give every QuantizeLinear and DequantizeLinear a name of its own, or none",
        sources.QUANTIZATION,
        "parser",
        flavours=frozenset({"tensorrt_rtx"}),
    ),
    Rule(
        "quantize-name-shared",
        "warning",
        match.name_taken,
        "{operator} has the name of another one, which TensorRT-RTX refuses ({target} "
        "was not tried)",
        "give every QuantizeLinear and DequantizeLinear a name of its own, or none",
        sources.QUANTIZATION,
        "documented",
        flavours=frozenset({"tensorrt"}),
    ),
    Rule(
        "activation-per-channel",
        "warning",
        match.activation_per_channel,
        "QuantizeLinear has {scales} scales for a computed tensor: only weights are quantized per "
        "channel fast",
        "quantize activations per tensor and weights per channel",
        sources.QUANTIZATION,
        "documented",
    ),
    Rule(
        "float-input",
        "info",
        match.only_weights_quantized,
        "{operator} has quantized weights and a float input, so it runs in float",
        "quantize its input as well, or leave both in float",
        sources.QUANTIZATION,
        "documented",
    ),
    Rule(
        "residual",
        "info",
        match.residual_not_quantized,
        "Add joins a quantized convolution with a float tensor, which costs the fused int8 path",
        "quantize the identity input of the residual Add",
        sources.QUANTIZATION,
        "documented",
    ),
)
