"""ONNX networks that sum over positions, one of each kind, with their summands by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import onnx
import torch

from foldcam.export.banks.bank import Bank, label_runs
from foldcam.export.banks.objectives.directions import all_triplets
from foldcam.export.grafting.fold import FoldOptions, fold
from foldcam.export.networks.cut import Network
from foldcam.export.onnx_graphs.session import GraphSession
from foldcam.runtime.contract.schema import GradWeightsRule, Origin
from foldcam.runtime.images.preprocess import Preprocessing

SIZE = (12, 16)
K, H, W, D = 4, 3, 4, 5
P = H * W
HEADS, HEAD_SIZE, OUTPUTS = 2, 2, 6

Values = Mapping[str, np.ndarray]


def numbers(seed: int, *shape: int) -> np.ndarray:
    """Seeded, `float32`."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONSTANTS = {
    "w0": numbers(0, K, 3, 4, 4) / 4,
    "b0": numbers(1, K),
    "fc": numbers(2, D, K),
    "bias": numbers(3, D),
    "a1": integers(1),
    "a2": integers(2),
    "a12": integers(1, 2),
    "a23": integers(2, 3),
    "columns": integers(0, K, P),
    "flat": integers(0, K * P),
    "ls": np.abs(numbers(4, K)) + 0.5,
    "lb": numbers(5, K),
    "low": np.float32(1e-3),
    "three": np.float32(3),
    "third": np.float32(1 / 3),
    "gate": numbers(6, K, K, 1, 1),
    "deep": numbers(7, K, 1, H, W),
    "deep2": numbers(8, 2 * K, 1, H, W),
    "deep2_bias": numbers(9, 2 * K),
    "fc8": numbers(10, D, 2 * K),
    "full": numbers(11, OUTPUTS, K, H, W),
    "full_bias": numbers(12, OUTPUTS),
    "rows": numbers(13, OUTPUTS, K * P),
    "across": numbers(14, K * P, OUTPUTS),
    "fc6": numbers(15, D, OUTPUTS),
    "hidden": numbers(16, OUTPUTS, K),
    "token": numbers(17, 1, 1, K),
    "token_end": integers(1, K),
    "wq": numbers(18, K, K),
    "wk": numbers(19, K, K),
    "wv": numbers(20, K, K),
    "wo": numbers(21, K, K),
    "scale": np.float32(HEAD_SIZE**-0.5),
    "mask": np.where(np.random.default_rng(22).random((P + 1, P + 1)) < 0.2, -1e4, 0.0).astype(
        np.float32
    ),
    "split": integers(0, 0, HEADS, HEAD_SIZE),
    "joined": integers(-1, P + 1, HEAD_SIZE),
    "joined_keys": integers(-1, HEAD_SIZE, P + 1),
    "apart": integers(-1, HEADS, P + 1, HEAD_SIZE),
    "together": integers(0, 0, K),
    "learned": numbers(23, 1, HEADS, 1, HEAD_SIZE),
    "first": np.array(0, np.int64),
    "fifth": np.array(5, np.int64),
}
TRUNK = ["Conv x,w0,b0 -> c strides=4,4", "Relu c -> m"]
FC = "Gemm f,fc,bias -> y transB=1"
TOKENS = ["Reshape m,columns -> q0", "Transpose q0 -> t0 perm=0,2,1"]
CLASS_TOKEN = [
    *TOKENS,
    "Shape x -> count start=0 end=1",
    "Concat count,token_end -> token_shape axis=0",
    "Expand token,token_shape -> t1",
    "Concat t1,t0 -> t axis=1",
    "LayerNormalization t,ls,lb -> l",
]
HEADS_APART = [
    *[
        line
        for name in "qkv"
        for line in (f"MatMul l,w{name} -> {name}1", f"Reshape {name}1,split -> {name}2")
    ],
    "Transpose q2 -> q perm=0,2,1,3",
    "Transpose k2 -> k perm=0,2,3,1",
    "Transpose v2 -> v perm=0,2,1,3",
]
SOFTMAX = ["MatMul q,k -> a0", "Mul a0,scale -> a", "Softmax a -> weights axis=-1"]
PRODUCT = "MatMul weights,v -> o"


def _after(query: str = "first") -> list[str]:
    """From the attention of `[N, H, Q, d]` to the embedding."""
    return [
        "Transpose o -> o1 perm=0,2,1,3",
        "Reshape o1,together -> o2",
        "MatMul o2,wo -> o3",
        "Add o3,t -> r",
        f"Gather r,{query} -> f axis=1",
        FC,
    ]


@dataclass(frozen=True)
class Case:
    """A network with one sum over positions.

    Attributes:
        lines: behind the map `m [N, 4, 3, 4]`, as `onnx_files.graph` takes them.
        kind: of the sum.
        summands: all values of the graph -> `[N, K', h, w]`.
        rest: what is in the sum and of no position, `[N or 1, K']`.
        total: the value of the sum.
        mean: whether the sum is divided by the positions.
        linear: whether the embedding is linear in it.
        constants: beside those above.
        half: whether all is computed in half precision.
        size: D.
    """

    lines: Sequence[str]
    kind: str
    summands: Callable[[Values], np.ndarray]
    total: str
    rest: Callable[[Values], np.ndarray] = lambda values: np.float32(0)
    mean: bool = False
    linear: bool = True
    constants: Values = field(default_factory=dict)
    half: bool = False
    size: int = D


def _from_tokens(tokens: np.ndarray) -> np.ndarray:
    return tokens.transpose(0, 2, 1).reshape(-1, K, H, W)


def _attended(values: Values, query: int = 0, skipped: int = 1) -> np.ndarray:
    """Weight times value of the patches, `[N, H * d, h, w]`."""
    weights, value = _by_head(values)
    product = weights[:, :, query, skipped:, None] * value[:, :, skipped:]
    return product.transpose(0, 1, 3, 2).reshape(len(product), HEADS * HEAD_SIZE, H, W)


def _own_share(values: Values, query: int = 0) -> np.ndarray:
    weights, value = _by_head(values)
    return (weights[:, :, query, :1] * value[:, :, 0]).reshape(len(value), -1)


def _by_head(values: Values) -> tuple[np.ndarray, np.ndarray]:
    weights, value = values["weights"], values["v"]
    if weights.ndim == 3:
        weights = weights.reshape(-1, HEADS, *weights.shape[1:])
        value = value.reshape(-1, HEADS, *value.shape[1:])
    return weights, value


def _kernel(name: str) -> Callable[[Values], np.ndarray]:
    times = len(CONSTANTS[name]) // K
    return lambda values: np.repeat(values["m"], times, axis=1) * CONSTANTS[name][:, 0]


def _rows(weights: np.ndarray) -> Callable[[Values], np.ndarray]:
    """`weights [O, K, h, w]`."""
    return lambda values: np.einsum("nkhw,okhw->nohw", values["m"], weights)


def _map(name: str) -> Callable[[Values], np.ndarray]:
    return lambda values: values[name]


def _attention(lines: Sequence[str], query: int = 0, half: bool = False) -> Case:
    return Case(
        lines,
        "attention",
        lambda values: _attended(values, query),
        "o",
        lambda values: _own_share(values, query),
        half=half,
    )


_POOL = ["GlobalAveragePool m -> p", "Flatten p -> f"]
_CLASS = [*CLASS_TOKEN, *HEADS_APART, *SOFTMAX, PRODUCT, *_after()]
_DEPTHWISE = ["Conv m,deep -> d group=4", "Flatten d -> f", FC]
_FLAT = ["Flatten m -> n", "Gemm n,rows,full_bias -> f0 transB=1", "Gemm f0,fc6,bias -> y transB=1"]

CASES: dict[str, Case] = {
    "average pool": Case([*_POOL, FC], "pool", _map("m"), "p", mean=True),
    "pool with a window as large as the map": Case(
        ["AveragePool m -> p kernel_shape=3,4", "Flatten p -> f", FC],
        "pool",
        _map("m"),
        "p",
        mean=True,
    ),
    "mean of two axes": Case(
        ["ReduceMean m,a23 -> f keepdims=0", FC], "pool", _map("m"), "f", mean=True
    ),
    "mean that is the embedding": Case(
        ["ReduceMean m,a23 -> y keepdims=0"], "pool", _map("m"), "y", mean=True, size=K
    ),
    "channels last": Case(
        ["Transpose m -> h perm=0,2,3,1", "ReduceMean h,a12 -> f keepdims=0", FC],
        "pool",
        _map("m"),
        "f",
        mean=True,
    ),
    "mean of tokens": Case(
        [*TOKENS, "LayerNormalization t0,ls,lb -> l", "ReduceMean l,a1 -> f keepdims=0", FC],
        "pool",
        lambda values: _from_tokens(values["l"]),
        "f",
        mean=True,
    ),
    "mean of transposed tokens": Case(
        [
            *TOKENS,
            "LayerNormalization t0,ls,lb -> l",
            "Transpose l -> u perm=0,2,1",
            "ReduceMean u,a2 -> f keepdims=0",
            FC,
        ],
        "pool",
        lambda values: _from_tokens(values["l"]),
        "f",
        mean=True,
    ),
    "mean of transposed tokens with an axis of one": Case(
        [
            *TOKENS,
            "LayerNormalization t0,ls,lb -> l",
            "Transpose l -> u perm=0,2,1",
            "Unsqueeze u,a2 -> u4",
            "GlobalAveragePool u4 -> p",
            "Flatten p -> f",
            FC,
        ],
        "pool",
        lambda values: _from_tokens(values["l"]),
        "p",
        mean=True,
    ),
    "generalised mean": Case(
        [
            "Clip m,low -> clipped",
            "Pow clipped,three -> powers",
            "GlobalAveragePool powers -> p",
            "Pow p,third -> root",
            "Flatten root -> f",
            FC,
        ],
        "pool",
        _map("powers"),
        "p",
        mean=True,
        linear=False,
    ),
    "sum of a weighted map": Case(
        [
            "Conv m,gate -> g0",
            "Sigmoid g0 -> g",
            "Mul m,g -> weighted",
            "ReduceSum weighted,a23 -> f keepdims=0",
            FC,
        ],
        "pool",
        _map("weighted"),
        "f",
    ),
    "pool and two layers": Case(
        [*_POOL, "Gemm f,hidden -> f1 transB=1", "Relu f1 -> f2", "Gemm f2,fc6,bias -> y transB=1"],
        "pool",
        _map("m"),
        "p",
        mean=True,
        linear=False,
    ),
    "depthwise": Case(_DEPTHWISE, "depthwise", _kernel("deep"), "d"),
    "depthwise of two kernels": Case(
        ["Conv m,deep2,deep2_bias -> d group=4", "Flatten d -> f", "Gemm f,fc8,bias -> y transB=1"],
        "depthwise",
        _kernel("deep2"),
        "d",
        lambda values: CONSTANTS["deep2_bias"][None],
    ),
    "depthwise and a pool of its one cell": Case(
        ["Conv m,deep -> d group=4", "GlobalAveragePool d -> p", "Flatten p -> f", FC],
        "depthwise",
        _kernel("deep"),
        "d",
    ),
    "full kernel": Case(
        ["Conv m,full,full_bias -> d", "Flatten d -> f", "Gemm f,fc6,bias -> y transB=1"],
        "linear",
        _rows(CONSTANTS["full"]),
        "d",
        lambda values: CONSTANTS["full_bias"][None],
    ),
    "flatten": Case(
        _FLAT,
        "linear",
        _rows(CONSTANTS["rows"].reshape(OUTPUTS, K, H, W)),
        "f0",
        lambda values: CONSTANTS["full_bias"][None],
    ),
    "flatten that ends the network": Case(
        ["Flatten m -> n", "Gemm n,rows,full_bias -> y transB=1"],
        "linear",
        _rows(CONSTANTS["rows"].reshape(OUTPUTS, K, H, W)),
        "y",
        lambda values: CONSTANTS["full_bias"][None],
        size=OUTPUTS,
    ),
    "flatten, inputs first": Case(
        ["Flatten m -> n", "Gemm n,across,full_bias -> f0", "Gemm f0,fc6,bias -> y transB=1"],
        "linear",
        _rows(CONSTANTS["across"].T.reshape(OUTPUTS, K, H, W)),
        "f0",
        lambda values: CONSTANTS["full_bias"][None],
    ),
    "flatten and a product": Case(
        [
            "Reshape m,flat -> n",
            "MatMul n,across -> f0",
            "Add f0,full_bias -> f1",
            "Gemm f1,fc6,bias -> y transB=1",
        ],
        "linear",
        _rows(CONSTANTS["across"].T.reshape(OUTPUTS, K, H, W)),
        "f0",
    ),
    "flatten of channels last": Case(
        [
            "Transpose m -> h perm=0,2,3,1",
            "Relu h -> h1",
            "Flatten h1 -> n",
            "Gemm n,rows,full_bias -> f0 transB=1",
            "Gemm f0,fc6,bias -> y transB=1",
        ],
        "linear",
        _rows(CONSTANTS["rows"].reshape(OUTPUTS, H, W, K).transpose(0, 3, 1, 2)),
        "f0",
        lambda values: CONSTANTS["full_bias"][None],
    ),
    "class token": _attention(_CLASS),
    "another token": _attention(
        [*CLASS_TOKEN, *HEADS_APART, *SOFTMAX, PRODUCT, *_after("fifth")], 5
    ),
    "class token with a mask": _attention(
        [
            *CLASS_TOKEN,
            *HEADS_APART,
            "MatMul q,k -> a0",
            "Mul a0,scale -> a1_",
            "Add a1_,mask -> a",
            "Softmax a -> weights axis=-1",
            PRODUCT,
            *_after(),
        ]
    ),
    "another token with a mask": _attention(
        [
            *CLASS_TOKEN,
            *HEADS_APART,
            "MatMul q,k -> a0",
            "Add a0,mask -> a",
            "Softmax a -> weights axis=3",
            PRODUCT,
            *_after("fifth"),
        ],
        5,
    ),
    "class token, scaled before": _attention(
        [
            *CLASS_TOKEN,
            *HEADS_APART,
            "Mul q,scale -> qs",
            "MatMul qs,k -> a",
            "Softmax a -> weights axis=-1",
            PRODUCT,
            *_after(),
        ]
    ),
    "class token, heads joined with the images": _attention(
        [
            *CLASS_TOKEN,
            *HEADS_APART[:-3],
            "Transpose q2 -> q3 perm=0,2,1,3",
            "Transpose k2 -> k3 perm=0,2,3,1",
            "Transpose v2 -> v3 perm=0,2,1,3",
            "Reshape q3,joined -> q",
            "Reshape k3,joined_keys -> k",
            "Reshape v3,joined -> v",
            *SOFTMAX,
            "MatMul weights,v -> o0",
            "Reshape o0,apart -> o",
            *_after(),
        ]
    ),
    "a learned query": Case(
        [
            *TOKENS,
            "LayerNormalization t0,ls,lb -> l",
            *[line for line in HEADS_APART if "q" not in line.split(" -> ")[1]],
            "MatMul learned,k -> a0",
            "Mul a0,scale -> a",
            "Softmax a -> weights axis=-1",
            PRODUCT,
            "Transpose o -> o1 perm=0,2,1,3",
            "Reshape o1,together -> o2",
            "ReduceSum o2,a1 -> f keepdims=0",
            FC,
        ],
        "attention",
        lambda values: _attended(values, 0, 0),
        "o",
    ),
    "average pool in half precision": Case(
        [*_POOL, FC], "pool", _map("m"), "p", mean=True, half=True
    ),
    "depthwise in half precision": Case(_DEPTHWISE, "depthwise", _kernel("deep"), "d", half=True),
    "flatten in half precision": Case(
        _FLAT,
        "linear",
        _rows(CONSTANTS["rows"].reshape(OUTPUTS, K, H, W)),
        "f0",
        lambda values: CONSTANTS["full_bias"][None],
        half=True,
    ),
    "class token in half precision": _attention(_CLASS, half=True),
}
"""One network for each way to sum over positions."""

NO_SUM: dict[str, tuple[Sequence[str], str]] = {
    "global maximum": (
        ["GlobalMaxPool m -> p", "Flatten p -> f", FC],
        "no step sums over the positions of a feature map",
    ),
    "two pools side by side": (
        [
            "GlobalAveragePool m -> p",
            "GlobalMaxPool m -> q",
            "Concat p,q -> pq axis=1",
            "Flatten pq -> f",
            "Gemm f,fc8,bias -> y transB=1",
        ],
        "several ways lead from its positions to the embedding",
    ),
    "a gate of the pooled map before a maximum": (
        [
            "GlobalAveragePool m -> p",
            "Sigmoid p -> g",
            "Mul m,g -> gated",
            "GlobalMaxPool gated -> q",
            "Flatten q -> f",
            FC,
        ],
        "several ways lead from its positions to the embedding",
    ),
    "class token beside a mean of the patches": (
        [
            *CLASS_TOKEN,
            *HEADS_APART,
            *SOFTMAX,
            PRODUCT,
            *_after()[:-2],
            "Gather r,first -> r0 axis=1",
            "Slice r,from,to,a1 -> r1",
            "ReduceMean r1,a1 -> r2 keepdims=0",
            "Concat r0,r2 -> f axis=1",
            "Gemm f,fc8,bias -> y transB=1",
        ],
        "several ways lead from its positions to the embedding",
    ),
    "two tokens": (
        [
            *CLASS_TOKEN,
            *HEADS_APART,
            *SOFTMAX,
            PRODUCT,
            *_after()[:-2],
            "Gather r,first -> r0 axis=1",
            "Gather r,fifth -> r1 axis=1",
            "Add r0,r1 -> f",
            FC,
        ],
        "2 tokens of its last attention lead to the embedding",
    ),
}
"""Networks without one sum, and the clause that says why."""


def model(
    onnx_files: ModuleType, lines: Sequence[str], half: bool = False, size: int = D
) -> onnx.ModelProto:
    """The ONNX file of a network from what follows its trunk; batch is dynamic."""
    steps = [*TRUNK, *lines]
    constants = {**CONSTANTS, "from": integers(1), "to": integers(P + 1)}
    if half:
        constants = {
            name: value.astype(np.float16) if value.dtype == np.float32 else value
            for name, value in constants.items()
        }
        steps = ["Cast x -> x16 to=10", *(step.replace(" x,w0", " x16,w0") for step in steps)]
        last, _, name = steps[-1].partition(" -> y")
        steps = [*steps[:-1], f"{last} -> y16{name}", "Cast y16 -> y to=1"]
    used = {part for step in steps for part in step.partition(" -> ")[0].split(" ")[1].split(",")}
    made = onnx_files.graph(
        steps,
        {name: value for name, value in constants.items() if name in used},
        18,
        ("batch", 3, *SIZE),
        {"y": ("batch", size)},
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def values_of(made: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of a graph, in float32."""
    names = [name for node in made.graph.node for name in node.output]
    found = GraphSession(made, names).run(images)
    return {name: array.astype(np.float32) for name, array in zip(names, found, strict=True)}


def images(count: int, seed: int = 0) -> np.ndarray:
    """`float32 [count, 3, H, W]`."""
    return numbers(seed, count, 3, *SIZE)


@dataclass(frozen=True)
class Trained:
    """A bank, and what went into it.

    Attributes:
        bank: its rows.
        directions: `float32 [N, D]`, of each row.
        head_ends: `float32 [N, D]`, `z` of each training image.
    """

    bank: Bank
    directions: np.ndarray
    head_ends: np.ndarray


def trained(
    network: Network, rule: GradWeightsRule = "transferred", count: int = 9, seed: int = 5
) -> Trained:
    """A bank of random images in three classes, each row with its own grad-weights."""
    known = network.forward(torch.from_numpy(images(count, seed)))
    embeddings = torch.nn.functional.normalize(known.embedding).numpy()
    classes = np.arange(count) * 3 // count
    directions = all_triplets(embeddings, classes).values
    bank = Bank(
        embeddings,
        directions
        if rule == "own"
        else network.pull_back(known, torch.from_numpy(directions)).numpy(),
        np.arange(count, dtype=np.int32),
        label_runs([f"class {number}" for number in classes]),
        "all-triplets",
        network_sha256=network.sha256(),
        summands=network.summands,
        rule=rule,
        mean_summands=known.feature_map.numpy().mean(axis=0),
    )
    return Trained(bank, directions, network.head_end(known).numpy())


def folded(network: Network, bank: Bank, **options: object) -> onnx.ModelProto:
    """The network with a bank folded in."""
    height, width = network.image_size
    return fold(
        network.to_onnx(),
        bank,
        preprocessing=Preprocessing(width, height),
        layer=network.layer,
        origin=Origin("net.onnx", "", network.sha256(), "data", "train", "1" * 64),
        versions={"onnx": onnx.__version__},
        options=FoldOptions(**options),
    )
