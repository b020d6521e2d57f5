"""NVIDIA's management library, as much of it as a meter needs, by ctypes: no package of Python's is required.

NVML API reference, device queries. A test hands in an object with the library's functions instead.
"""

import ctypes
from typing import Any

from swarm.energy.reading import CounterUnreadable

LIBRARY = "libnvidia-ml.so.1"
SUCCESS, NOT_SUPPORTED = 0, 3
NAME_BYTES = 96


class Nvml:
    """The library, initialised. `library` is what ctypes.CDLL gives. Raises CounterUnreadable."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL(LIBRARY)
            except OSError:
                raise CounterUnreadable(f"{LIBRARY} is not installed (no NVIDIA driver)") from None
        self._library = library
        self._check(library.nvmlInit_v2(), "nvmlInit_v2")

    def devices(self) -> list[str]:
        """The GPUs' names, in NVML's order."""
        count = ctypes.c_uint(0)
        self._check(self._library.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount_v2")
        return [self._name(index) for index in range(count.value)]

    def millijoules(self, index: int) -> int | None:
        """The energy counter, since the driver was loaded; None on GPUs without (before Volta)."""
        value = ctypes.c_ulonglong(0)
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle(index), ctypes.byref(value))
        if code == NOT_SUPPORTED:
            return None
        self._check(code, "nvmlDeviceGetTotalEnergyConsumption")
        return value.value

    def milliwatts(self, index: int) -> int:
        """The board's power."""
        value = ctypes.c_uint(0)
        code = self._library.nvmlDeviceGetPowerUsage(self._handle(index), ctypes.byref(value))
        self._check(code, "nvmlDeviceGetPowerUsage")
        return value.value

    def _name(self, index: int) -> str:
        text = ctypes.create_string_buffer(NAME_BYTES)
        code = self._library.nvmlDeviceGetName(self._handle(index), text, ctypes.c_uint(NAME_BYTES))
        self._check(code, "nvmlDeviceGetName")
        return text.value.decode(errors="replace")

    def _handle(self, index: int) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        code = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
        self._check(code, "nvmlDeviceGetHandleByIndex_v2")
        return handle

    def _check(self, code: int, function: str) -> None:
        if code != SUCCESS:
            raise CounterUnreadable(
                f"{function} of {LIBRARY} answers with error {code}: `nvidia-smi` shows whether the "
                "driver works"
            )
