"""A tool beside the trouble: it drops good images without pause, and tells how late each was judged."""

from __future__ import annotations

import os
import threading
import time
from typing import Self

from rigs.station import Station


class Neighbour:
    """`at`: when each image was dropped. Runs inside a `with`."""

    def __init__(self, station: Station, camera: str) -> None:
        self._camera, self._station, self._end, self.at = camera, station, threading.Event(), dict[bytes, float]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._end.wait(0.15):
            (path,) = self._station.drop(1, self._camera)
            self.at[os.fsencode(path.name)] = time.time()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(10)

    def delays_s(self) -> list[float]:
        """From the rename to the record."""
        recorded = {row.image[1]: row.at for row in self._station.rows() if row.image[0] == self._camera}
        return [recorded[name] - at for name, at in self.at.items() if name in recorded]
