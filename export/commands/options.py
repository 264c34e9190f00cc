"""What the workstation's commands share: their options, and how they read them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from foldcam.export.banks.objectives.directions import Objective
    from foldcam.export.banks.objectives.kernel import KernelObjective
    from foldcam.export.datasets import Dataset, SingletonPolicy
    from foldcam.export.datasets import Split as SplitName
    from foldcam.export.exporting.scale_out.sources import ShardedData
    from foldcam.export.grafting.fold import HeatmapSize
    from foldcam.export.grafting.options import StorageOptions
    from foldcam.export.models.spec import LoadedModel
    from foldcam.export.onnx_graphs.device import Device
    from foldcam.runtime.contract.schema import Baseline, GradWeightsRule
    from foldcam.runtime.images.preprocess import Preprocessing

Choice = TypeVar("Choice", bound=str)

Model = Annotated[
    str,
    typer.Argument(
        help="Names the embedding network: demo, package.module:factory, a .pt2 file, or an .onnx "
        "file.",
        metavar="MODEL",
    ),
]
TrainingImages = Annotated[
    Path,
    typer.Option(help="Reads training images from class folders, a CSV, or a CUB-200-2011 folder."),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Loads weights of MODEL from a .safetensors file or a state dict of plain tensors "
        "(default: its own)."
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        help="Takes the layer of this name as the feature map (default: it is searched for)."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        help="Takes the output of this name as the embedding, where several could be (default: the "
        "only one)."
    ),
]
Split = Annotated[str, typer.Option(help="Takes this part of the data: train, valid, test or all.")]
ObjectiveText = Annotated[
    str | None,
    typer.Option(
        help="Sets the objective of the directions: all-triplets, sampled:50 (triplets per image), "
        "or pml:LOSS; with --continuous kernel:tau=0.1, which is its default.",
        show_default="all-triplets",
    ),
]
Continuous = Annotated[
    bool,
    typer.Option(
        "--continuous",
        help="Reads labels as numbers, such as prices; the model then returns an estimate.",
    ),
]
Log = Annotated[
    bool,
    typer.Option(
        "--log",
        help="Estimates logarithms of the values (for prices) and answers in the values' unit.",
    ),
]
Channels = Annotated[
    str, typer.Option(help="Chooses the channels whose grad-weights are kept: all, or positive.")
]
GradWeightsText = Annotated[
    str,
    typer.Option(
        "--grad-weights",
        help="Chooses where an image's grad-weights come from: transferred, from its nearest "
        "training image; own, computed in the graph at the image itself; auto takes own for a "
        "class token and transferred for every other head.",
    ),
]
BaselineText = Annotated[
    str,
    typer.Option(
        "--baseline",
        help="Chooses what each position is compared with: mean, the average training image at "
        "that place, or none; auto takes what measured better for the kind of head.",
    ),
]
Contrast = Annotated[
    bool,
    typer.Option(
        "--contrast",
        help="Adds the outputs contrast, runner_up and runner_up_similarity: the signed map of "
        "what speaks for the label and not for the most similar other label.",
    ),
]
BankAsInput = Annotated[
    bool,
    typer.Option(
        "--bank-input",
        help="Keeps the bank in a file of its own beside the model, where `runtime bank` changes "
        "it on the device, in place of constants of the graph.",
    ),
]
Query = Annotated[
    bool,
    typer.Option(
        "--query",
        help="Adds the input query, by which a map can be asked for another direction than the "
        "bank's: another picture, one label against another, a text; includes --bank-input.",
    ),
]
Transfer = Annotated[
    int,
    typer.Option(
        help="Sets the number of nearest bank rows whose grad-weights are averaged.", min=1
    ),
]
Neighbors = Annotated[
    int, typer.Option(help="Sets the number of nearest bank rows that the model returns.", min=1)
]
Search = Annotated[
    str,
    typer.Option(
        help="Chooses how the nearest bank rows are found: exhaustive compares every row; "
        "lists compares the rows of the 12 nearest lists, for large banks (lists:16 of "
        "16); auto takes the faster."
    ),
]
Compress = Annotated[
    str,
    typer.Option(
        help="Compresses the grad-weights: none, rank:32 (32 numbers per row), or prototypes:5 (5 "
        "rows per label). Embeddings stay as they are, and the loss of accuracy is printed."
    ),
]
BankPrecision = Annotated[
    str,
    typer.Option(
        help="Sets the type in which the bank is stored: float32, float16, int8 (for "
        "embeddings in lists, with grad-weights in float16), or auto, which takes smaller"
        " types for larger banks."
    ),
]
HeatmapSizeText = Annotated[
    str,
    typer.Option(
        help="Sets the size of the heatmap: native (the feature map's), input, or WIDTHxHEIGHT."
    ),
]
InputTypeText = Annotated[
    str,
    typer.Option(
        "--input",
        help="Sets the type of the model's input: float32, or uint8 with the normalisation in "
        "the graph.",
    ),
]
FrameText = Annotated[
    str | None,
    typer.Option(
        "--frame",
        help="Makes a model that takes whole camera frames of this size in pixels, WIDTHxHEIGHT, "
        "as RGB bytes, and crops, resizes and normalises them in the graph; includes --input "
        "uint8. It is for engines on a GPU: on a processor it gains little (default: the host "
        "makes the network's input).",
        metavar="WIDTHxHEIGHT",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Sets the input size in pixels, 224 or WIDTHxHEIGHT (default: the network's)."
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(help="Sets the resize rule: stretch, crop or letterbox (default: the network's)."),
]
Color = Annotated[
    str | None,
    typer.Option(
        help="Sets the channel order of the network's input: rgb or bgr (default: the network's)."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Sets the mean per channel of pixels in [0, 1] (default: the network's)."),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="Sets the standard deviation per channel of pixels in [0, 1] (default: the network's)."
    ),
]
Singletons = Annotated[
    str,
    typer.Option(help="Chooses what happens to labels with a single image: refuse, keep or drop."),
]
DeviceText = Annotated[
    str,
    typer.Option(
        "--device",
        help="Chooses what the network runs on: cpu, cuda (an NVIDIA GPU), or auto, which takes "
        "the GPU where ONNX Runtime can compute on it.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Sets the number of images per forward pass.", min=1)]
Seed = Annotated[int, typer.Option(help="Sets the seed of the sampled triplets.", min=0)]
Json = Annotated[
    bool,
    typer.Option("--json", help="Prints one JSON document to standard output in place of text."),
]


def choice(flag: str, value: str, choices: tuple[Choice, ...]) -> Choice:
    """`value`, if it is one of `choices`; wrong usage otherwise."""
    for candidate in choices:
        if value == candidate:
            return candidate
    raise typer.BadParameter(f"{flag} {value!r} is not one of {', '.join(choices)}.")


def given(context: typer.Context, names: Iterable[str]) -> list[str]:
    """The flags of these parameters that are on the command line."""
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]


def check_image_flags(resize: str | None, color: str | None) -> None:
    """Wrong usage for a resize rule or a colour order that does not exist."""
    from foldcam.runtime.images.preprocess import COLOR_ORDERS, RESIZE_RULES

    if resize is not None:
        choice("--resize", resize, RESIZE_RULES)
    if color is not None:
        choice("--color", color, COLOR_ORDERS)


def check_picture_flag(flag: str, path: Path | None) -> None:
    """Wrong usage for a picture to be written whose name has no image suffix."""
    from foldcam.runtime.images.files import WRITTEN_SUFFIXES

    if path is not None and path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise typer.BadParameter(f"{flag} {path} has no image suffix, such as .png.")


def check_page_flag(flag: str, path: Path | None) -> None:
    """Wrong usage for a page to be written whose name is not one of HTML."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{flag} {path} is not an .html file.")


def network_of(
    model: str, weights: Path | None, output: str | None, device: Device, **look: str | None
) -> tuple[LoadedModel, Preprocessing]:
    """The network that MODEL and its flags name, and how its images are made.

    Args:
        model, weights, output, device: as `load_model` takes them.
        look: what `--size`, `--resize`, `--color`, `--mean` and `--std` were given.
    """
    from foldcam.export.models.spec import load_model, with_overrides

    loaded = load_model(model, weights, output, device)
    return loaded, with_overrides(loaded.preprocessing, **look)


def device_of(text: str) -> Device:
    """What `--device` names, said once on standard error; wrong usage otherwise."""
    from foldcam.export.onnx_graphs.device import DEVICE_CHOICES, choose_device

    device = choose_device(choice("--device", text, DEVICE_CHOICES))
    if device.note:
        print(device.note, file=sys.stderr, flush=True)
    return device


def heatmap_size_of(text: str) -> HeatmapSize:
    """`native`, `input`, or WIDTHxHEIGHT as `(height, width)`; wrong usage otherwise."""
    if text in ("native", "input"):
        return "native" if text == "native" else "input"
    width, height = _sides(text, f"--heatmap-size {text!r} is not native, input or WIDTHxHEIGHT.")
    return height, width


def frame_of(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as `(width, height)`; wrong usage otherwise."""
    return _sides(text, f"--frame {text!r} is not WIDTHxHEIGHT, such as 1280x720.")


def _sides(text: str, problem: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdigit() and len(side) < 7 for side in (width, height)):
        raise typer.BadParameter(problem)
    return int(width), int(height)


def grad_weights_of(text: str) -> GradWeightsRule | None:
    """The rule that `--grad-weights` names, None for auto; wrong usage otherwise."""
    from foldcam.runtime.contract.schema import GRAD_WEIGHTS_RULES

    return None if text == "auto" else choice("--grad-weights", text, GRAD_WEIGHTS_RULES)


def baseline_of(text: str) -> Baseline | None:
    """The baseline that `--baseline` names, None for auto; wrong usage otherwise."""
    from foldcam.runtime.contract.schema import BASELINES

    return None if text == "auto" else choice("--baseline", text, BASELINES)


def goal_of(
    objective: str | None, *, continuous: bool, log: bool, seed: int
) -> Objective | KernelObjective:
    """The objective that the flags name."""
    from foldcam.export.banks.objectives.directions import DEFAULT_OBJECTIVE, parse_objective
    from foldcam.export.banks.objectives.kernel import DEFAULT_KERNEL, parse_kernel

    if log and not continuous:
        raise typer.BadParameter("--log needs --continuous.")
    if continuous:
        return parse_kernel(objective or DEFAULT_KERNEL, "log" if log else "none")
    return parse_objective(objective or DEFAULT_OBJECTIVE, seed)


def split_of(text: str) -> SplitName:
    """What `--split` names, in any of the words for it; wrong usage otherwise."""
    from foldcam.export.datasets import SPLITS
    from foldcam.export.datasets.splits import part_named

    return part_named(text) or choice("--split", text, SPLITS)


def singletons_of(text: str) -> SingletonPolicy:
    """What `--singletons` names; wrong usage otherwise."""
    from foldcam.export.datasets import SINGLETON_POLICIES

    return choice("--singletons", text, SINGLETON_POLICIES)


def training_data(images: Path, split: str, singletons: str, *, continuous: bool) -> Dataset:
    """The training images that the flags name; says how the data set was understood."""
    from foldcam.export.datasets import training_data as read

    policy = singletons_of(singletons)
    dataset = read(images, split_of(split), singletons=policy, continuous=continuous)
    say_notes(dataset)
    return dataset


def say_notes(dataset: Dataset | ShardedData) -> None:
    """How a data set was understood, on standard error, before the long work begins."""
    from foldcam.runtime.system.text import printable

    for note in dataset.notes:
        print(f"note: {printable(f'{dataset.name}: {note}')}", file=sys.stderr, flush=True)


def data_document(dataset: Dataset) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "data_notes": list(dataset.notes),
        "left_out": [{"path": item.place, "reason": item.reason} for item in dataset.left_out],
    }


def local_images(text: str) -> Path:
    """DATA as a path."""
    from foldcam.export.datasets import URL
    from foldcam.runtime.system.errors import FoldcamError

    if URL.match(text) or text.endswith(".tar"):
        raise FoldcamError(
            f"--images {text}: URLs and .tar files are read by foldcam bank build --engine ray."
        )
    return Path(text)


@contextmanager
def stdout_kept() -> Iterator[None]:
    """A user's network may print: standard output is for this program's report alone."""
    with redirect_stdout(sys.stderr):
        yield


def storage_of(search: str, compress: str, bank_precision: str) -> StorageOptions:
    """How the bank is to be stored."""
    from foldcam.export.grafting.options import (
        PRECISION_CHOICES,
        StorageOptions,
        parse_compression,
        parse_search,
    )

    return StorageOptions(
        search=parse_search(search),
        precision=choice("--bank-precision", bank_precision, PRECISION_CHOICES),
        compression=parse_compression(compress),
    )
