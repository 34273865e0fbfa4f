"""The messages of the contract, made from the nouns. Pure but for the clock it asks.

Invariants
- A body is made once, when its row is committed, and never again: what differs between sendings is no part of it.
- Every text is capped and printable, every number finite: no image, name or model can make a message that a broker or MES refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from edged.clock import kernel_state
from edged.config.station import Station
from edged.nouns import Defect, Envelope, Frame, Material, ModelScores, Numbering, PageResult, Quality, utc_text
from edged.plant.schema import (
    EVENT_SCHEMA,
    MAX_DEFECTS,
    RESULT_SCHEMA,
    RESULT_TYPE,
    TEXT_CAP,
    TRACEPARENT,
    event_message,
    result_message,
    result_schema,
)
from edged.plant.text import maybe, number, plain, text

__all__ = ["Messages", "result_schema"]

SIMULATED = {"simulated": False, "degraded": False}


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _opencv() -> str | None:
    """The version as OpenCV says it itself, without loading it."""
    try:
        return ".".join(metadata.version("opencv-python-headless").split(".")[:3])
    except metadata.PackageNotFoundError:
        return None


class Messages:
    """Implements `nouns.Composer`. `frames`: each camera's die frame, where the image's own identity gives none.

    `clock` answers `synced`, `unsynced` or `unknown`; `e10` the tool's SEMI E10 state, None while nobody tells it.
    """

    def __init__(
        self,
        station: Station,
        topic_base: str,
        frames: Mapping[str, Frame],
        *,
        public_url: str | None = None,
        clock: Callable[[], str] = kernel_state,
        now: Callable[[], datetime] = _utc_now,
        e10: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._station, self._base, self._frames = station, topic_base, frames
        self._public_url = public_url.rstrip("/") if public_url else None
        self._clock, self._now, self._e10 = clock, now, e10
        self._opencv = _opencv()

    def result(self, page: PageResult, numbering: Numbering) -> Envelope:
        """The result message of one page: its topic, body and user properties."""
        camera, verdict = page.landing.camera, page.verdict.kind.value
        material = page.landing.identity.material
        lot, wafer = maybe(material.lot_id), maybe(material.wafer_id)
        parts = (lot or "-", wafer or "-", camera, f"{numbering.sequence:012}")
        subject = "/".join(part.replace("/", "%2F") for part in parts)
        message = self._cloud(numbering, RESULT_TYPE, subject, utc_text(page.decided), RESULT_SCHEMA)
        if page.landing.traceparent and TRACEPARENT.fullmatch(page.landing.traceparent):
            message["traceparent"] = page.landing.traceparent
        message["data"] = self.data_of(page, numbering)
        properties = {"type": RESULT_TYPE, "id": numbering.id, "verdict": verdict, "schema": RESULT_SCHEMA}
        if lot:
            properties["lot"] = lot
        if wafer:
            properties["wafer"] = wafer
        return Envelope(f"{self._base}/result/{camera}/{verdict.lower()}", result_message.dump_json(message), properties)  # type: ignore[arg-type]

    def event(self, kind: str, data: Mapping[str, Any], numbering: Numbering) -> Envelope:
        """An event message; what in `data` has no JSON form becomes text."""
        kind_of = f"edged.event.{kind}.v1"
        message = self._cloud(numbering, kind_of, kind, utc_text(self._now()), EVENT_SCHEMA)
        message["data"] = plain(data)
        properties = {"type": kind_of, "id": numbering.id, "schema": EVENT_SCHEMA}
        return Envelope(f"{self._base}/event/{kind}", event_message.dump_json(message), properties)  # type: ignore[arg-type]

    def data_of(self, page: PageResult, numbering: Numbering | None = None) -> dict[str, Any]:
        """The `data` object of the result message; without a numbering nothing is known of earlier results."""
        verdict, identity = page.verdict, page.landing.identity
        return {
            "verdict": verdict.kind.value,
            "reason": text(verdict.reason, TEXT_CAP),
            **({"detail": text(verdict.detail, TEXT_CAP)} if verdict.detail else {}),
            "rules": text(verdict.rules),
            "judgement": page.judgement,
            "supersedes": (numbering.supersedes if numbering else None) or page.supersedes,
            "duplicate_of": numbering.duplicate_of if numbering else None,
            "material": _material(identity.material),
            "equipment": self._equipment(page),
            "frame": _frame(identity.frame or self._frames.get(page.landing.camera)),
            "die": {"x": identity.die.x, "y": identity.die.y, "site": identity.die.site},
            "defects": [_defect(n, defect) for n, defect in enumerate(verdict.defects[:MAX_DEFECTS], 1)],
            "defect_count": max(verdict.defect_count, len(verdict.defects)),
            "defects_truncated": max(verdict.defect_count, len(verdict.defects)) > min(len(verdict.defects), MAX_DEFECTS),
            "models": [_model(scores) for scores in verdict.models],
            "preprocess": {
                "hash": page.preprocess_hash,
                "opencv": page.opencv or self._opencv,
                "steps": [text(step) for step in page.preprocess_steps],
            },
            "image": self._image(page),
            "quality": _quality(page.quality),
            "times": self._times(page),
            "timing_ms": {text(stage): number(ms, 3) for stage, ms in page.timing_ms.items()},
            "flags": {**SIMULATED, **page.flags},
        }

    def _cloud(self, numbering: Numbering, kind_of: str, subject: str, time: str, schema: str) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "type": kind_of,
            "id": numbering.id,
            "source": self._station.source,
            "subject": subject,
            "time": time,
            "datacontenttype": "application/json",
            "dataschema": schema,
            "epoch": numbering.epoch,
            "kind": numbering.kind,
            "sequence": f"{numbering.sequence:012}",
        }

    def _equipment(self, page: PageResult) -> dict[str, Any]:
        identity = page.landing.identity
        return {
            "tool": self._station.tool,
            "chamber": maybe(identity.chamber),
            "camera": page.landing.camera,
            "recipe": text(identity.recipe or page.landing.recipe),
            "job_id": maybe(identity.job_id),
            "operator": maybe(identity.operator),
            "e10": self._e10(),
        }

    def _image(self, page: PageResult) -> dict[str, Any]:
        image = page.image
        told = {
            "name": text(page.landing.name),
            "page": image.page,
            "sha256": image.sha256 or None,
            "bytes": image.bytes,
            "width": image.width,
            "height": image.height,
            "bits": image.bits,
            "media_type": image.media_type,
        }
        if self._public_url and image.sha256:
            told["ref"] = f"{self._public_url}/api/v1/images/{image.sha256}"
        return told

    def _times(self, page: PageResult) -> dict[str, Any]:
        identity, image = page.landing.identity, page.image
        told = identity if identity.acquired else image
        return {
            "acquired": utc_text(told.acquired) if told.acquired else None,
            "acquired_from": maybe(told.acquired_from) if told.acquired else None,
            "detected": utc_text(page.landing.detected),
            "decided": utc_text(page.decided),
            "clock": self._clock(),
        }


def _material(material: Material) -> dict[str, Any]:
    return {
        "lot_id": maybe(material.lot_id),
        "wafer_id": maybe(material.wafer_id),
        "slot": material.slot,
        "carrier_id": maybe(material.carrier_id),
        "product": maybe(material.product),
        "step": maybe(material.step),
        "complete": material.complete,
        "from": maybe(material.from_),
    }


def _frame(frame: Frame | None) -> dict[str, Any] | None:
    if frame is None:
        return None
    return {
        "origin": text(frame.origin),
        "axis": text(frame.axis),
        "orientation_deg": frame.orientation_deg,
        "notch": text(frame.notch),
        "um_per_px": number(frame.um_per_px, 9),
        "die_pitch_um": _rounded(frame.die_pitch_um, 4),
    }


def _defect(n: int, defect: Defect) -> dict[str, Any]:
    told = {
        "n": n,
        "class": text(defect.name),
        "class_no": defect.class_no,
        "rough_bin": defect.rough_bin,
        "fine_bin": defect.fine_bin,
        "confidence": number(defect.confidence, 6) or 0.0,
        "box_px": _rounded(defect.box_px, 2),
        "area_px": number(defect.area_px, 2),
        "rel_um": _rounded(defect.rel_um, 3),
        "size_um": _rounded(defect.size_um, 3),
    }
    if defect.model:
        told["model"] = text(defect.model)
    return told


def _rounded(values: tuple[float, ...] | None, digits: int) -> tuple[float, ...] | None:
    """All of them, or null: half a position is none."""
    if values is None:
        return None
    rounded = tuple(number(value, digits) for value in values)
    return None if None in rounded else rounded  # type: ignore[return-value]


def _model(model: ModelScores) -> dict[str, Any]:
    facts = model.model
    return {
        "name": facts.name,
        "version": facts.version,
        "role": facts.role,
        "endpoint": facts.endpoint,
        "sha256": facts.sha256,
        "scores": {text(name): number(score, 6) for name, score in model.scores.items()},
    }


def _quality(quality: Quality | None) -> dict[str, Any] | None:
    if quality is None:
        return None
    return {
        "ok": quality.ok,
        "sharpness": number(quality.sharpness, 3),
        "mean": number(quality.mean, 3),
        "saturated_frac": number(quality.saturated_frac, 6),
        "dark_frac": number(quality.dark_frac, 6),
        "problems": [text(problem) for problem in quality.problems],
    }
