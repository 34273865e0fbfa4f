"""The work of a decoder process: one file at a time, page by page, in as many requests as there are slots for.

Answers are plain dicts. `outcome`: page (`need`: tensors still to come, `more` pages) | rejected (this page or, with `whole`, the file) |
vanished | changed | unavailable | flat-field.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from edged.errors import FrameRejected
from edged.nouns import ImageFacts, InputPlan
from edged.vision import headers
from edged.vision.answers import MOST_PX
from edged.vision.decode import decode
from edged.vision.headers import Header, Limits
from edged.vision.prepare import Prepared
from edged.vision.quality import measure
from edged.vision.reading import Content, Expected, ReadFailed, read
from edged.vision.sidefiles import FlatFieldMissing, Sidefiles
from edged.vision.steps import combined_hash, from_wire, preprocess_hash, window
from edged.vision.warnings import Warnings
from edged.vision.wire import DECODING, OPENING, PREPARING, READING, REFERENCE, Job, Phase, geometry_to_wire, image_to_wire

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Worker:
    """Holds the rings' descriptors, the plans, and the file it works on."""

    def __init__(self, settings: dict[str, Any], phase: Phase) -> None:
        cv2.setNumThreads(1)
        self._limits = Limits(settings["max_file_bytes"], settings["max_pixels"], settings["max_side_px"], settings["max_pages"])
        self._hash_s = settings["timeout_s"] / 2
        self._phase = phase
        self._rings: dict[int, tuple[int, int]] = {}
        self._plans: dict[int, list[InputPlan]] = {}
        self._hashes: dict[tuple[int | None, tuple[str | None, ...]], tuple[str, tuple[str, ...]]] = {}
        self._side = Sidefiles(self._limits)
        self._warnings = Warnings(2)
        self._file: _File | None = None

    def warm(self) -> None:
        """Lets the codecs and filters set themselves up now, not under the first image."""
        page = np.full((640, 640), 77, np.uint8)
        for suffix in (".jpg", ".png"):
            data = cv2.imencode(suffix, page)[1].tobytes()
            with contextlib.suppress(FrameRejected):  # limits may be tighter than this page
                decode(data, headers.inspect(data, self._limits))
        cv2.resize(page, (40, 40), interpolation=cv2.INTER_AREA)
        measure(page)

    def ring(self, number: int, fd: int, slot_nbytes: int) -> None:
        self._rings[number] = fd, slot_nbytes

    def plans(self, number: int, each: list[dict[str, Any]]) -> None:
        self._plans[number] = [from_wire(plan) for plan in each]

    def forget(self) -> None:
        self._file = None

    def answer(self, message: list[Any]) -> dict[str, Any]:
        """One job's answer; `number` says whose."""
        job = Job(*message)
        self._phase.begin(job.number)
        timing: dict[str, float] = {}
        answer: dict[str, Any] = {"number": job.number, "timing": timing}
        try:
            file = self._opened(job, timing)
            if job.plans is None or file.rejected is not None:
                self._file = None
                reason, detail = file.rejected or ("", "")
                image = image_to_wire(file.image(0))
                return answer | {"outcome": "rejected", "whole": True, "reason": reason, "detail": detail, "image": image}
            return answer | self._page(job, file, self._plans[job.plans], timing)
        except (ReadFailed, FlatFieldMissing) as failure:
            self._file = None
            return answer | {"outcome": failure.kind, "detail": str(failure)}

    def _opened(self, job: Job, timing: dict[str, float]) -> _File:
        if self._file is not None and self._file.number == job.number:
            return self._file
        self._file = None  # its memory, before the next one's
        self._phase.set(OPENING)
        began = time.monotonic()
        content = read(
            job.folder.encode("utf-8", "surrogateescape"),
            job.path.encode("utf-8", "surrogateescape"),
            Expected(job.size, job.mtime_ns, job.inode),
            self._limits.max_file_bytes,
            self._hash_s,
            lambda: self._phase.set(READING),
        )
        timing["read"] = (time.monotonic() - began) * 1000
        self._phase.set(DECODING)
        if job.sha256 is not None and content.sha256 != job.sha256:
            raise ReadFailed("changed", "its content is another one")
        self._file = _File(job.number, content, self._limits, codec=job.plans is not None)
        return self._file

    def _page(self, job: Job, file: _File, plans: list[InputPlan], timing: dict[str, float]) -> dict[str, Any]:
        assert file.header is not None
        more = job.page + 1 < len(file.header.pages)
        try:
            made = file.page if file.page is not None and file.page.number == job.page else self._decoded(job, file, plans, timing)
            tensors, need = self._written(job, made, plans, timing)
        except (FrameRejected, MemoryError, cv2.error) as error:
            file.page = None
            reason, detail = _rejection(error)
            if not more:
                self._file = None
            whole = len(file.header.pages) == 1
            image = image_to_wire(file.image(job.page))
            return {"outcome": "rejected", "whole": whole, "reason": reason, "detail": detail, "image": image, "more": more}
        last = not any(need)
        if last and not more:
            self._file = None
        image = image_to_wire(file.image(job.page))
        told = {"image": image, "quality": made.quality, "hash": made.hash, "steps": made.steps}
        return told | {"outcome": "page", "tensors": tensors, "need": need, "more": more}

    def _decoded(self, job: Job, file: _File, plans: list[InputPlan], timing: dict[str, float]) -> _Page:
        assert file.header is not None
        assert file.data is not None
        file.page = None
        self._phase.set(DECODING)
        began = time.monotonic()
        colour = any(plan.preprocess.colour == "rgb" for plan in plans)
        self._warnings.corrupt()  # what a reference's decoder said is no matter of this image
        pixels = decode(file.data, file.header, job.page, colour=colour)
        if complaint := self._warnings.corrupt():
            raise FrameRejected("corrupt", f"the decoder says: {complaint}")
        decoded = time.monotonic()
        timing["decode"] = (decoded - began) * 1000
        self._phase.set(PREPARING)
        measured = measure(pixels, window(plans[0].preprocess) if plans else None)
        flats = [self._side.flat(plan) for plan in plans]
        prepared = [Prepared(pixels, plan, flat.image if flat else None) for plan, flat in zip(plans, flats, strict=True)]
        digest, steps = self._hash(job.plans, plans, tuple(flat.sha256 if flat else None for flat in flats))
        self._phase.set(REFERENCE)
        references = [
            self._side.reference(job.reference, plan, flat, made) if plan.reference and job.reference else None
            for plan, flat, made in zip(plans, flats, prepared, strict=True)
        ]
        if job.reference and any(plan.reference and golden is None for plan, golden in zip(plans, references, strict=True)):
            steps = (*steps, "reference-missing")
        self._phase.set(PREPARING)
        quality = [measured.sharpness, measured.mean, measured.saturated_frac, measured.dark_frac]
        timing["preprocess"] = (time.monotonic() - decoded) * 1000
        file.page = _Page(job.page, prepared, references, quality, digest, steps)
        return file.page

    def _hash(self, number: int | None, plans: list[InputPlan], flats: tuple[str | None, ...]) -> tuple[str, tuple[str, ...]]:
        key = number, flats
        if (known := self._hashes.get(key)) is None:
            each = [preprocess_hash(plan, flat) for plan, flat in zip(plans, flats, strict=True)]
            known = self._hashes[key] = combined_hash(each, [plan.model for plan in plans])
        return known

    def _written(self, job: Job, page: _Page, plans: list[InputPlan], timing: dict[str, float]) -> tuple[list[list[Any]], list[int]]:
        """Fills the job's slots in order; ([[index into job.slots, geometry]], how many tensors each plan still lacks)."""
        self._phase.set(PREPARING)
        began = time.monotonic()
        done = list(job.done) or [0] * len(plans)
        written: list[list[Any]] = []
        for position, (plan, ring, slot) in enumerate(job.slots):
            prepared, index = page.prepared[plan], done[plan]
            if index >= len(prepared.geometries):
                continue
            fd, slot_nbytes = self._rings[ring]
            count = os.pwritev(fd, cast("Sequence[Buffer]", prepared.planes(index, page.references[plan])), slot * slot_nbytes)
            if count != slot_nbytes:
                raise RuntimeError(f"a tensor of {count} bytes for a slot of {slot_nbytes}")
            written.append([position, geometry_to_wire(prepared.geometries[index])])
            done[plan] += 1
        timing["preprocess"] = timing.get("preprocess", 0.0) + (time.monotonic() - began) * 1000
        return written, [len(prepared.geometries) - count for prepared, count in zip(page.prepared, done, strict=True)]


@dataclass(slots=True)
class _Page:
    """A decoded page, prepared for every plan."""

    number: int
    prepared: list[Prepared]
    references: list[Prepared | None]
    quality: list[float]
    hash: str
    steps: tuple[str, ...]


class _File:
    """A file as read: its bytes, its header or why it has none."""

    def __init__(self, number: int, content: Content, limits: Limits, *, codec: bool) -> None:
        self.number, self.data = number, content.data
        self.sha256, self.size = content.sha256, content.size
        self.media_type = headers.media_type(content.head)
        self.header: Header | None = None
        self.rejected: tuple[str, str] | None = None
        self.page: _Page | None = None
        try:
            if content.data is None:
                raise headers.too_long(content.size, limits)
            if codec:
                self.header = headers.inspect(content.data, limits)
        except FrameRejected as error:
            self.rejected = error.reason, error.detail

    def image(self, page: int) -> ImageFacts:
        if self.header is None:
            return ImageFacts(self.sha256, self.size, self.media_type)
        facts = self.header.pages[page]
        # A refused page may claim numbers that no database holds.
        width, height, bits, channels = (n if 0 <= n <= MOST_PX else None for n in (facts.width, facts.height, facts.bits, facts.channels))
        return ImageFacts(
            self.sha256, self.size, self.media_type, page, len(self.header.pages),
            width, height, bits, channels, self.header.acquired, self.header.acquired_from,
        )  # fmt: skip


def _rejection(error: Exception) -> tuple[str, str]:
    if isinstance(error, FrameRejected):
        return error.reason, error.detail
    if isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == -4):
        return "too-large", "preparing it needs more memory than decode.memory_bytes allows"
    return "corrupt", f"it could not be prepared: {error}"
