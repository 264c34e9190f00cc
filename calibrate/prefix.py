"""The part of a float model that a change leaves as it was, run once.

To round one activation, or the weights of one layer, changes nothing before it. So the float model
is run a stretch at a time, and a candidate begins with the values that both have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from foldcam.calibrate.graph import Batches, with_outputs
from foldcam.calibrate.session import Images, Runner
from foldcam.export.onnx_graphs.device import CPU, Device
from foldcam.export.onnx_graphs.names import names_read
from foldcam.runtime.contract.schema import IMAGE, Contract


class Prefix:
    """The values of a float model from which the rest of it can be computed, up to some node.

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
