"""Grafting the search: embedding -> nearest bank rows and the similarity to them."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from foldcam.export.banks.bank import Bank
from foldcam.export.grafting.in_graph import (
    BANK_CENTROIDS,
    BANK_CODE_SCALES,
    BANK_CODE_STEPS,
    BANK_EMBEDDINGS,
    BANK_LIST_ROWS,
    StoredBank,
)
from foldcam.export.grafting.packed_codes import BASE, MOVE, PAIR, PLANES
from foldcam.export.onnx_graphs.writing import PREFIX, Graft
from foldcam.runtime.contract.schema import (
    EMBEDDING,
    NEIGHBOR,
    RUNNER_UP,
    RUNNER_UP_SIMILARITY,
    SIMILARITY,
)
from foldcam.runtime.system.errors import FoldcamError

SIMILARITIES = PREFIX + "similarities"
"""`float32 [N, rows]` to every row; only an exhaustive search makes it."""

_NEAR_LISTS = PREFIX + "near_lists"
# Below this the norm of an embedding counts as zero.
_TINY_NORM = 1e-12
# Less than any cosine, whatever it is added to.
BELOW_ALL = -4.0


def graft_unit_embedding(graft: Graft, unit: bool) -> str:
    """`e`, `float32 [N, D]`: the embedding over its norm, or itself where it is of norm 1."""
    if unit:
        return EMBEDDING
    safe = graft_norm(graft, EMBEDDING, "norm")
    return graft.node("Div", [EMBEDDING, safe], PREFIX + "unit_embedding")


def graft_norm(graft: Graft, vectors: str, name: str) -> str:
    """The norm of each row of `float32 [N, D]`, `float32 [N, 1]`, never quite zero."""
    norm = graft.reduce("ReduceL2", vectors, 1, PREFIX + name)
    tiny = graft.constant(f"tiny_{name}", _TINY_NORM, np.float32)
    return graft.node("Max", [norm, tiny], f"{PREFIX}safe_{name}")


def graft_neighbors(graft: Graft, stored: StoredBank, unit: str, found: int, reported: int) -> str:
    """The nearest `found` rows, of which the first `reported` are the outputs.

    Args:
        unit: name of `e`, `float32 [N, D]`.

    Returns:
        The name of the rows' indices `[N, found]`, int32 or int64.
    """
    if stored.storage.search == "lists":
        return _in_lists(graft, stored, unit, found, reported)
    table = graft.constant(
        BANK_EMBEDDINGS, stored.arrays[BANK_EMBEDDINGS], stored.arrays[BANK_EMBEDDINGS].dtype
    )
    if stored.storage.embeddings == "float16":
        table = graft.node("Cast", [table], PREFIX + "bank_rows", to=TensorProto.FLOAT)
    similarities = graft.node("MatMul", [unit, table], SIMILARITIES)
    rows, values = _nearest(graft, similarities, found, reported == found)
    if reported < found:
        graft.first_columns(values, reported, SIMILARITY)
    kept = _reported(graft, rows, reported, found)
    graft.node("Cast", [kept], NEIGHBOR, to=TensorProto.INT32)
    return rows


def _in_lists(graft: Graft, stored: StoredBank, unit: str, found: int, reported: int) -> str:
    """Centroids first, then the rows of the nearest lists."""
    storage = stored.storage
    centroids = graft.constant(BANK_CENTROIDS, stored.arrays[BANK_CENTROIDS], np.float32)
    to_lists = graft.node("MatMul", [unit, centroids], PREFIX + "list_similarities")
    probes = graft.constant("probes", [storage.probes], np.int64)
    lists = PREFIX + "lists"
    # Sorted, so that ties between rows of two lists fall alike everywhere.
    graft.nodes("TopK", [to_lists, probes], [_NEAR_LISTS, lists], axis=1, sorted=1)
    flat = graft.constant("flat_places", [-1, storage.probes * storage.list_rows], np.int64)
    if storage.embeddings == "int8":
        compared = _codes_compared(graft, stored, unit, lists)
    else:
        compared = _rows_compared(graft, stored, unit, lists)
    scores = graft.node("Reshape", [compared, flat], PREFIX + "place_similarities")
    padding = stored.padding()
    if found > 1 and padding.any():
        below = graft.constant("padding", np.where(padding, BELOW_ALL, 0.0), np.float32)
        of_lists = graft.node("Gather", [below, lists], PREFIX + "padding_of_lists", axis=0)
        added = graft.node("Reshape", [of_lists, flat], PREFIX + "padding_of_places")
        scores = graft.node("Add", [scores, added], PREFIX + "masked_similarities")
    where, values = _nearest(graft, scores, found, reported == found)
    if reported < found:
        graft.first_columns(values, reported, SIMILARITY)
    table = graft.constant(BANK_LIST_ROWS, stored.arrays[BANK_LIST_ROWS], np.int32)
    of_lists = graft.node("Gather", [table, lists], PREFIX + "rows_of_lists", axis=0)
    of_places = graft.node("Reshape", [of_lists, flat], PREFIX + "rows_of_places")
    rows = NEIGHBOR if reported == found else PREFIX + "rows"
    graft.node("GatherElements", [of_places, where], rows, axis=1)
    if reported < found:
        graft.first_columns(rows, reported, NEIGHBOR)
    return rows


def _rows_compared(graft: Graft, stored: StoredBank, unit: str, lists: str) -> str:
    """Similarities `[N, places, 1]` to rows that are stored as floats."""
    rows = stored.arrays[BANK_EMBEDDINGS]
    size = rows.shape[2]
    table = graft.constant(BANK_EMBEDDINGS, rows, rows.dtype)
    gathered = graft.node("Gather", [table, lists], PREFIX + "listed", axis=0)
    if rows.dtype == np.float16:
        gathered = graft.node("Cast", [gathered], PREFIX + "listed_float", to=TensorProto.FLOAT)
    places = stored.storage.probes * stored.storage.list_rows
    shape = graft.constant("listed_shape", [-1, places, size], np.int64)
    listed = graft.node("Reshape", [gathered, shape], PREFIX + "listed_rows")
    column = graft.constant("query_shape", [-1, size, 1], np.int64)
    query = graft.node("Reshape", [unit, column], PREFIX + "query")
    return graft.node("MatMul", [listed, query], PREFIX + "listed_similarities")


def _codes_compared(graft: Graft, stored: StoredBank, unit: str, lists: str) -> str:
    """`[N, probes, C]`: similarity to the centroid, and to what the row has beside it.

    Every run of codes meets its own part of the query: nothing is put together again.
    """
    storage, arrays = stored.storage, stored.arrays
    words = arrays[BANK_EMBEDDINGS]
    width = words.shape[2]
    table = graft.constant(BANK_EMBEDDINGS, words, np.int32)
    gathered = graft.node("Gather", [table, lists], PREFIX + "listed", axis=0)
    places = storage.probes * storage.list_rows
    shape = graft.constant("listed_shape", [-1, places, width], np.int64)
    listed = graft.node("Reshape", [gathered, shape], PREFIX + "listed_words")
    lower, upper = _halves(graft, listed)
    runs = [*_codes(graft, lower, "lower"), *_codes(graft, upper, "upper")]
    parts = _query_parts(graft, stored, unit, width)
    products = [
        graft.node("MatMul", [run, part], f"{PREFIX}code_product_{number}")
        for number, (run, part) in enumerate(zip(runs, parts, strict=True))
    ]
    pairs = [
        graft.node("Add", products[:2], PREFIX + "lower_products"),
        graft.node("Add", products[2:], PREFIX + "upper_products"),
    ]
    moved = graft.node("Add", pairs, PREFIX + "moved_products")
    cube = graft.constant("cube", [-1, storage.probes, storage.list_rows], np.int64)
    moved = graft.node("Reshape", [moved, cube], PREFIX + "moved_of_lists")
    # What moving the codes added is the same for every row.
    moves = np.where(np.arange(len(arrays[BANK_CODE_STEPS])) < (PLANES - 1) * width, -MOVE, 0)
    column = (moves * arrays[BANK_CODE_STEPS])[:, None]
    back = graft.constant("move_back", column, np.float32)
    offset = graft.node("MatMul", [unit, back], PREFIX + "code_offset")
    one = graft.constant("one_per_image", [-1, 1, 1], np.int64)
    offset = graft.node("Reshape", [offset, one], PREFIX + "code_offsets")
    products_of_codes = graft.node("Add", [moved, offset], PREFIX + "code_products")
    scales = graft.constant(BANK_CODE_SCALES, arrays[BANK_CODE_SCALES], np.float32)
    scale = graft.node("Gather", [scales, lists], PREFIX + "scales_of_lists", axis=0)
    beside = graft.node("Mul", [products_of_codes, scale], PREFIX + "beside_centroid")
    each = graft.constant("one_per_list", [-1, storage.probes, 1], np.int64)
    near = graft.node("Reshape", [_NEAR_LISTS, each], PREFIX + "centroid_similarities")
    return graft.node("Add", [beside, near], PREFIX + "listed_similarities")


def _halves(graft: Graft, words: str) -> tuple[str, str]:
    """`word = lower + 65536 upper`, as floats.

    By multiplication and floor, where an integer division would be slow.
    """
    floats = graft.node("Cast", [words], PREFIX + "word_float", to=TensorProto.FLOAT)
    inverse = graft.constant("inverse_pair", 1 / PAIR, np.float32)
    above = graft.node("Mul", [floats, inverse], PREFIX + "word_above")
    upper = graft.node("Floor", [above], PREFIX + "upper")
    # float32 holds 24 of the 32 bits: what is left below is found among integers.
    whole = graft.node("Cast", [upper], PREFIX + "upper_whole", to=TensorProto.INT32)
    pair = graft.constant("pair", PAIR, np.int32)
    share = graft.node("Mul", [whole, pair], PREFIX + "pair_share")
    rest = graft.node("Sub", [words, share], PREFIX + "lower_whole")
    lower = graft.node("Cast", [rest], PREFIX + "lower", to=TensorProto.FLOAT)
    return lower, upper


def _codes(graft: Graft, pair: str, name: str) -> tuple[str, str]:
    """`pair = first + 256 second`."""
    inverse = graft.constant(f"{name}_inverse_base", 1 / BASE, np.float32)
    base = graft.constant(f"{name}_base", BASE, np.float32)
    above = graft.node("Mul", [pair, inverse], f"{PREFIX}{name}_above")
    second = graft.node("Floor", [above], f"{PREFIX}{name}_second")
    share = graft.node("Mul", [second, base], f"{PREFIX}{name}_share")
    first = graft.node("Sub", [pair, share], f"{PREFIX}{name}_first")
    return first, second


def _query_parts(graft: Graft, stored: StoredBank, unit: str, width: int) -> list[str]:
    """The query times the codes' steps, in four columns `[N, W, 1]`."""
    steps = stored.arrays[BANK_CODE_STEPS]
    step = graft.constant(BANK_CODE_STEPS, steps, np.float32)
    query = graft.node("Mul", [unit, step], PREFIX + "scaled_query")
    missing = PLANES * width - len(steps)
    if missing:
        pads = graft.constant("query_pads", [0, 0, 0, missing], np.int64)
        query = graft.node("Pad", [query, pads], PREFIX + "padded_query")
    shape = graft.constant("query_shape", [-1, PLANES * width, 1], np.int64)
    column = graft.node("Reshape", [query, shape], PREFIX + "query")
    sizes = graft.constant("query_sizes", [width] * PLANES, np.int64)
    parts = [f"{PREFIX}query_{number}" for number in range(PLANES)]
    graft.nodes("Split", [column, sizes], parts, axis=1)
    return parts


def _nearest(graft: Graft, scores: str, found: int, final: bool) -> tuple[str, str]:
    """Places `[N, found]` of the greatest scores, and the scores.

    Args:
        scores: name of `float32 [N, places]`.
    """
    where = PREFIX + ("rows" if scores == SIMILARITIES else "places")
    values = SIMILARITY if final else PREFIX + "nearest_similarities"
    if found == 1:
        # Cheaper than TopK in every backend.
        graft.node("ArgMax", [scores], where, axis=1, keepdims=1)
        graft.reduce("ReduceMax", scores, 1, values)
        return where, values
    count = graft.constant("found", [found], np.int64)
    graft.nodes("TopK", [scores, count], [values, where], axis=1, sorted=1)
    return where, values


def _reported(graft: Graft, rows: str, reported: int, found: int) -> str:
    if reported == found:
        return rows
    return graft.first_columns(rows, reported, PREFIX + "reported_rows")


ROW_LABELS = PREFIX + "row_labels"
"""`int32 [rows]`: the number of each row's label."""


def check_contrast(bank: Bank, stored: StoredBank) -> None:
    """Whether a bank has another label, and a search that looks at all of its rows."""
    if bank.outcome is not None or len(bank.labels) < 2:
        raise FoldcamError("--contrast compares two labels, and the bank does not have two.")
    if bank.summands is None:
        raise FoldcamError(
            "--contrast: an older foldcam made the bank, and its grad-weights have no unit: build "
            "it again."
        )
    if stored.storage.search != "exhaustive":
        raise FoldcamError(
            "--contrast looks for another label among all rows, and the bank is searched in "
            "lists: add --search exhaustive."
        )


def graft_runner_up(graft: Graft, bank: Bank, rows: str, found: int) -> str:
    """`runner_up` and `runner_up_similarity`, both `[N]`.

    Args:
        rows: name of the nearest rows `[N, found]`.

    Returns:
        The name of the row's index, `[N, 1]`.
    """
    counts = [run.count for run in bank.labels]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    table = graft.constant(ROW_LABELS, labels, np.int32)
    first = rows if found == 1 else graft.first_columns(rows, 1, PREFIX + "first_row")
    own = graft.node("Gather", [table, first], PREFIX + "own_label", axis=0)
    same = graft.node("Equal", [table, own], PREFIX + "same_label")
    below = graft.constant("below_all", BELOW_ALL, np.float32)
    others = graft.node("Where", [same, below, SIMILARITIES], PREFIX + "other_similarities")
    row = graft.node("ArgMax", [others], PREFIX + "runner_up_row", axis=1, keepdims=1)
    best = graft.reduce("ReduceMax", others, 1, PREFIX + "runner_up_best")
    flat = graft.constant("one_per_image_flat", [-1], np.int64)
    graft.node("Reshape", [best, flat], RUNNER_UP_SIMILARITY)
    whole = graft.node("Cast", [row], PREFIX + "runner_up_whole", to=TensorProto.INT32)
    graft.node("Reshape", [whole, flat], RUNNER_UP)
    return row
