"""What the graph of a `.pt2` program may call: operators that compute, named one by one.

A namespace is no boundary: aten itself has operators that open files (`from_file`), that draw
random numbers, that replace a tensor's memory (`set_`), and that trust their arguments to lie
inside it (`_unsafe_index`). What is not here is refused by its name. Operators that write into
one of their arguments (`relu_`) are, since all that a program holds is memory of its own.
"""

from __future__ import annotations

import re

import torch

_ARITHMETIC = """
abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min clip conj
conj_physical copysign cos cosh deg2rad digamma div divide erf erfc erfinv exp exp2 expm1 fix
float_power floor floor_divide fmax fmin fmod frac frexp gcd heaviside hypot i0 lcm ldexp lerp
lgamma log log10 log1p log2 logaddexp logaddexp2 logical_and logical_not logical_or logical_xor
logit maximum minimum mul multiply nan_to_num neg negative polar positive pow rad2deg real imag
angle reciprocal remainder round rsqrt rsub sgn sigmoid sign signbit sin sinc sinh special_entr
special_erf special_erfc special_erfinv special_expit special_expm1 special_log1p special_logit
special_xlog1py special_xlogy special_exp2 special_sinc special_round special_log_softmax
special_softmax special_logsumexp sqrt square sub subtract tan tanh true_divide trunc xlogy
"""
_COMPARISONS = """
all any eq ge greater greater_equal gt isclose isfinite isin isinf isnan isneginf isposinf le less
less_equal lt masked_fill ne not_equal where
"""
_ACTIVATIONS = """
celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid
log_sigmoid_forward log_softmax mish prelu _prelu_kernel relu relu6 selu silu softmax softplus
softshrink threshold _log_softmax _softmax
"""
_REDUCTIONS = """
amax amin aminmax argmax argmin count_nonzero cummax cummin cumprod cumsum logcumsumexp logsumexp
max mean median min mode nanmean nanmedian nansum norm prod quantile std std_mean sum trace var
var_mean dist cdist _cdist_forward pdist pairwise_distance cosine_similarity linalg_norm
linalg_vector_norm linalg_matrix_norm frobenius_norm nuclear_norm
"""
_PRODUCTS = """
addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul dot einsum ger inner kron linear matmul
mm mv outer tensordot vdot linalg_matmul linalg_multi_dot linalg_vecdot linalg_cross cross
linalg_inv linalg_inv_ex linalg_det linalg_solve linalg_solve_ex _linalg_solve_ex linalg_pinv
linalg_qr linalg_svd linalg_svdvals _linalg_svd linalg_eigh linalg_eigvalsh _linalg_eigh
linalg_cholesky linalg_cholesky_ex linalg_matrix_exp linalg_matrix_power linalg_slogdet
_linalg_slogdet _linalg_det inverse det matrix_exp matrix_power cholesky linalg_solve_triangular
"""
_CONVOLUTIONS_AND_POOLS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d
_adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
avg_pool2d avg_pool3d conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
convolution _convolution conv_depthwise3d _conv_depthwise2d max_pool1d max_pool1d_with_indices
max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices im2col col2im unfold
"""
_NORMALISATIONS = """
batch_norm _native_batch_norm_legit_no_training native_batch_norm group_norm native_group_norm
instance_norm layer_norm native_layer_norm rms_norm _fused_rms_norm renorm norm_except_dim
_weight_norm _weight_norm_interface alpha_dropout dropout feature_dropout feature_alpha_dropout
"""
_ATTENTION_AND_RECURRENCE = """
scaled_dot_product_attention _scaled_dot_product_attention_math
_scaled_dot_product_flash_attention_for_cpu _native_multi_head_attention
_transformer_encoder_layer_fwd gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh
rnn_tanh_cell _thnn_fused_gru_cell _thnn_fused_lstm_cell embedding one_hot
"""
_PICTURES = """
affine_grid_generator constant_pad_nd grid_sampler grid_sampler_2d grid_sampler_3d pad
pixel_shuffle pixel_unshuffle channel_shuffle reflection_pad1d reflection_pad2d reflection_pad3d
replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _pad_circular _pad_enum native_channel_shuffle
"""
_FREQUENCIES = """
fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft
fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn fft_hfft fft_ihfft _fft_c2c _fft_c2r _fft_r2c
stft istft complex view_as_complex view_as_real hann_window hamming_window
"""
_SHAPES = """
adjoint alias as_strided atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to
cat chunk clone column_stack concat concatenate contiguous detach diag diag_embed diagonal
diagonal_scatter diff dsplit dstack expand expand_as fill flatten flip fliplr flipud hsplit hstack
lift_fresh lift_fresh_copy meshgrid moveaxis movedim narrow permute ravel repeat repeat_interleave
reshape reshape_as _reshape_alias resolve_conj resolve_neg roll rot90 row_stack select
select_scatter slice slice_scatter split split_with_sizes squeeze stack sum_to_size swapaxes
swapdims t tensor_split tile transpose unbind unflatten unsafe_chunk unsafe_split
unsafe_split_with_sizes unsqueeze _unsafe_view view view_as vsplit vstack numpy_T mT mH matrix_H
tril triu copy as_strided_scatter zero
"""
_INDICES = """
argsort bucketize gather index index_add index_copy index_fill index_put index_reduce index_select
kthvalue masked_scatter masked_select msort nonzero put scatter scatter_add scatter_reduce
searchsorted sort take take_along_dim topk unique_consecutive unique_dim _unique2 tril_indices
triu_indices cartesian_prod combinations
"""
_MAKING_AND_TYPES = """
arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like scalar_tensor
zeros zeros_like range to _to_copy type_as is_floating_point is_complex result_type item
_local_scalar_dense bincount
"""
_SIZES_AND_CHECKS = """
size numel sym_size sym_numel sym_stride sym_storage_offset stride dim sym_is_contiguous
sym_constrain_range sym_constrain_range_for_size _assert_async _assert_scalar
_assert_tensor_metadata
"""

_PURE = frozenset(
    " ".join(
        (
            _ARITHMETIC, _COMPARISONS, _ACTIVATIONS, _REDUCTIONS, _PRODUCTS,
            _CONVOLUTIONS_AND_POOLS, _NORMALISATIONS, _ATTENTION_AND_RECURRENCE, _PICTURES,
            _FREQUENCIES, _SHAPES, _INDICES, _MAKING_AND_TYPES, _SIZES_AND_CHECKS,
        )
    ).split()
)  # fmt: skip
# Of these, the form that writes into its first argument computes the same.
_IN_PLACE = frozenset(
    " ".join(
        (_ARITHMETIC, _COMPARISONS, _ACTIVATIONS, _NORMALISATIONS, _SHAPES, _INDICES,
         _PRODUCTS, _REDUCTIONS)
    ).split()
)  # fmt: skip
ATEN = _PURE | {f"{name}_" for name in _IN_PLACE if not name.startswith("_")} - {"as_strided_"}

# They run a part of the same graph; the part's operators are looked at like all others.
_HIGHER_ORDER = frozenset({"wrap_with_set_grad_enabled", "wrap_with_autocast"})
_SIZES = frozenset(
    {"sym_int", "sym_float", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum", "sym_sqrt"}
)
# Without powers and shifts: of two small numbers they make one that fills the memory.
_PYTHON = frozenset(
    {
        "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pos", "eq", "ne", "lt", "le",
        "gt", "ge", "and_", "or_", "not_", "getitem",
    }
)  # fmt: skip
_TARGET = re.compile(
    r"torch\.ops\.aten\.(?P<aten>[A-Za-z_]\w*)(\.(?P<form>[A-Za-z_]\w*))?"
    r"|torch\.ops\.higher_order\.(?P<higher>\w+)"
    r"|torch\.(?P<size>sym_\w+)"
    r"|_operator\.(?P<python>\w+)",
    re.ASCII,
)


def is_allowed(target: str) -> bool:
    """Whether the graph of a program may call this."""
    match = _TARGET.fullmatch(target)
    if match is None:
        return False
    if match["aten"] is not None:
        return match["aten"] in ATEN and _computes(match["aten"], match["form"])
    for kind, names in (("higher", _HIGHER_ORDER), ("size", _SIZES), ("python", _PYTHON)):
        if match[kind] is not None:
            return match[kind] in names
    return False


def _computes(name: str, form: str | None) -> bool:
    """Whether this form of an operator exists here, and is not one that fills a tensor given."""
    packet = getattr(torch.ops.aten, name, None)
    operator = getattr(packet, form or "default", None)
    schema = getattr(operator, "_schema", None)
    return schema is not None and not any(
        argument.kwarg_only and argument.alias_info is not None and argument.alias_info.is_write
        for argument in schema.arguments
    )
