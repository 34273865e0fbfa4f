"""The bytes of a ModelInferRequest, built once for each shape and place: protobuf objects cost more than the call itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from edged.inference.manifest import Manifest

_RAW_INPUT_CONTENTS = b"\x3a"  # field 7, length-delimited
_CACHED = 8192


class RequestBytes:
    """Requests to one model: rows that lie in a shared memory region, or rows carried in the message."""

    def __init__(self, manifest: Manifest) -> None:
        self._model = manifest.triton_name
        self._input = manifest.inputs[0]
        self._outputs = [output.name for output in manifest.outputs]
        self._heads: dict[int, bytes] = {}
        self._in_memory: dict[tuple[str, int, int, int], bytes] = {}

    def in_memory(self, region: str, offset: int, nbytes: int, rows: int) -> bytes:
        """`rows` inputs that lie one after the other from `offset`, `nbytes` in all."""
        key = (region, offset, nbytes, rows)
        if (built := self._in_memory.get(key)) is None:
            request = self._request(rows)
            parameters = request.inputs[0].parameters
            parameters["shared_memory_region"].string_param = region
            parameters["shared_memory_byte_size"].int64_param = nbytes
            parameters["shared_memory_offset"].int64_param = offset
            built = request.SerializeToString()
            if len(self._in_memory) >= _CACHED:
                self._in_memory.clear()  # regions were renewed many times: the old names are of no use
            self._in_memory[key] = built
        return built

    def carrying(self, arrays: Sequence[NDArray[Any]]) -> bytes:
        """The arrays, each of the input's dims, copied once into the message."""
        rows = len(arrays)
        if (head := self._heads.get(rows)) is None:
            head = self._heads[rows] = self._request(rows).SerializeToString()
        length = sum(array.nbytes for array in arrays)
        return b"".join([head, _RAW_INPUT_CONTENTS, _varint(length), *(np.ascontiguousarray(array).data for array in arrays)])

    def _request(self, rows: int) -> Any:
        request = pb.ModelInferRequest(model_name=self._model)
        request.inputs.add(name=self._input.name, datatype=self._input.dtype, shape=[rows, *self._input.dims])
        for name in self._outputs:
            request.outputs.add(name=name)
        return request


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
