"""The device tensors that hold states or contexts of all resident sessions, one row each."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime

from conveyor.engine.limits import Device
from conveyor.engine.ort import make_session
from conveyor.engine.spilled import Rows
from conveyor.engine.work import Array
from conveyor.graph.arena import Arena, Scatter
from conveyor.graph.rows import read_rows_model, write_rows_model


class ArenaStore(Protocol):
    """All arenas of a model's states, or of its contexts.

    `values` are bound to a run: those of states as input and output both, so that it updates them in place.
    """

    values: dict[str, onnxruntime.OrtValue]

    def read(self, slots: Sequence[int]) -> list[Rows]:
        """The row of each slot in each arena, copied to the host."""

    def write(self, slots: Sequence[int], rows: Sequence[Rows]) -> None:
        """Overwrites the row of each slot in each arena."""


class HostArenas:
    """Arenas in host memory, which the CPU provider runs on directly."""

    def __init__(self, arenas: Sequence[Arena], num_rows: int) -> None:
        # Zeroed lazily by the kernel: rows that no session has used yet cost address space, not memory.
        self._arrays = {arena.name: np.zeros((num_rows, arena.width), arena.dtype) for arena in arenas}
        self.values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(a) for name, a in self._arrays.items()}

    def read(self, slots: Sequence[int]) -> list[Rows]:
        return [{name: array[slot].copy() for name, array in self._arrays.items()} for slot in slots]

    def write(self, slots: Sequence[int], rows: Sequence[Rows]) -> None:
        for slot, row in zip(slots, rows, strict=True):
            for name, array in self._arrays.items():
                array[slot] = row[name]


class DeviceArenas:
    """Arenas in the GPU's memory, read and written by small graphs of their own."""

    def __init__(self, arenas: Sequence[Arena], num_rows: int, device: Device, scatter: Scatter) -> None:
        self._device = device
        self.values = {
            arena.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [num_rows, arena.width], np.dtype(arena.dtype).type, "cuda", device.device_id
            )
            for arena in arenas
        }
        self._readers = {a.name: make_session(read_rows_model(a).SerializeToString(), device, 1) for a in arenas}
        self._writers = {
            a.name: make_session(write_rows_model(a, scatter).SerializeToString(), device, 1) for a in arenas
        }

    def read(self, slots: Sequence[int]) -> list[Rows]:
        columns = {name: self._read(name, np.array(slots, np.int64)) for name in self.values}
        return [{name: rows[index] for name, rows in columns.items()} for index in range(len(slots))]

    def _read(self, name: str, slots: Array) -> Array:
        binding = self._readers[name].io_binding()
        binding.bind_ortvalue_input("arena", self.values[name])
        binding.bind_cpu_input("slots", slots)
        binding.bind_output("rows", "cpu")
        self._readers[name].run_with_iobinding(binding)
        rows: Array = binding.get_outputs()[0].numpy()
        return rows

    def write(self, slots: Sequence[int], rows: Sequence[Rows]) -> None:
        for name, value in self.values.items():
            binding = self._writers[name].io_binding()
            binding.bind_ortvalue_input("arena", value)
            binding.bind_cpu_input("slots", np.array(slots, np.int64))
            binding.bind_cpu_input("rows", np.stack([row[name] for row in rows]))
            binding.bind_ortvalue_output("arena.out", value)
            self._writers[name].run_with_iobinding(binding)
