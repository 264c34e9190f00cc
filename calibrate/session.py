"""Models in memory run by ONNX Runtime, on the CPU always in the same order of sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from foldcam.calibrate.graph import Batches, with_outputs
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.values import names_read
from foldcam.runtime.contract.schema import IMAGE, Contract
from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]
Outputs = dict[str, npt.NDArray[Any]]


class Runner:
    """A model as a function from resized images to its outputs.

    Args:
        model: with the input `image`, and perhaps others.
        contract: how images become that input.
        kernels: whether quantized nodes are joined into int8 kernels. Without, Q and DQ are
            computed as they are written, which is what TensorRT's sums come to, and faster for
            models in a form that the CPU has no kernels for.
        batch: images per pass.
        device: where it is computed; on a GPU equal inputs give equal bytes only by chance.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        contract: Contract,
        *,
        kernels: bool = False,
        batch: int = 4,
        device: Device = CPU,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Equal inputs are to give equal bytes, whatever the number of cores.
        options.intra_op_num_threads = 1
        if not kernels:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._contract = contract
        self._batch = batch
        self.names = [value.name for value in model.graph.output]
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=device.providers()
            )
            self._session.disable_fallback()
            self._inputs = {value.name for value in self._session.get_inputs()}
        except Exception as error:
            # ONNX Runtime's errors have no common type.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FoldcamError(f"ONNX Runtime cannot run the model: {reason}") from error

    def batches(self, images: Images) -> Iterator[tuple[Images, Outputs]]:
        """The images of each batch, and the outputs by name.

        Args:
            images: `uint8 [n, height, width, 3]` RGB at the network's input size.
        """
        ready = self.prepared(self._contract, images, self._batch)
        for start, values in zip(range(0, len(images), self._batch), ready, strict=True):
            yield images[start : start + self._batch], self.run(values)

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        """Outputs by name; inputs that the model does not have are left out."""
        given = {name: value for name, value in inputs.items() if name in self._inputs}
        return dict(zip(self.names, self._session.run(None, given), strict=True))

    @staticmethod
    def prepared(contract: Contract, images: Images, batch: int = 4) -> Iterator[Outputs]:
        """The model's input for each batch of resized images."""
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            raw = contract.input_type == "uint8"
            yield {IMAGE: part if raw else contract.preprocessing.normalized(part)}

    def all(self, images: Images) -> Outputs:
        """Outputs by name for all images at once; see `batches`."""
        parts = [outputs for _, outputs in self.batches(images)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.names}


class Prefix:
    """The values of a float model from which the rest of it can be computed, up to some node.

    To round one activation, or the weights of one layer, changes nothing before it. So the float
    model is run a stretch at a time, and a candidate begins with the values that both have.

    Args:
        model: folded, float32.
        images: `uint8 [n, height, width, 3]` RGB at the input size.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        outputs: Sequence[str],
        contract: Contract,
        images: Images,
        device: Device = CPU,
    ) -> None:
        self._model, self._outputs = model, outputs
        self._contract, self._images, self._device = contract, images, device
        self._place, self._values = -1, self._beginning()

    def reach(self, place: int) -> Batches:
        """The values, for each batch of images, that the nodes behind a place read of those before.

        To go on from the place of the last call costs what lies between; to go back, everything.

        Args:
            place: of the last node that is run; -1 for the model's input alone.
        """
        if place < self._place:
            self._place, self._values = -1, self._beginning()
        wanted = self._live(place)
        new = [name for name in wanted if name not in self._values[0]]
        if new:
            stretch = with_outputs(self._model, new, self._values)
            runner = Runner(stretch, self._contract, device=self._device)
            found = [{**values, **runner.run(values)} for values in self._values]
            if not all(isinstance(value, np.ndarray) for value in found[0].values()):
                # A sequence is no array to begin with: the rest begins where it did before.
                return self._values
            self._values = found
        self._values = [{name: values[name] for name in wanted} for values in self._values]
        self._place = place
        return self._values

    def _beginning(self) -> Batches:
        return list(Runner.prepared(self._contract, self._images))

    def _live(self, place: int) -> list[str]:
        nodes = self._model.graph.node
        needed = set(self._outputs)
        for node in reversed(nodes[place + 1 :]):
            if needed.intersection(node.output):
                needed |= names_read([node])
        # A constant stays one, because operators ask for axes and sizes that are.
        run = [node for node in nodes[: place + 1] if node.op_type != "Constant"]
        return sorted(needed & ({name for node in run for name in node.output if name} | {IMAGE}))
