"""What one camera says of itself: health, a snapshot, and where a file is. From memory alone, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from edged.config import WatchMode
from edged.intake.known import LISTED
from edged.intake.recall import CameraSnapshot, Writing
from edged.nouns import HealthStatus, display_name

if TYPE_CHECKING:
    from edged.intake.camera import CameraIntake

SHOWN = 20
_LIMITS = "Raise fs.inotify.max_user_watches and fs.inotify.max_user_instances."


def health(camera: CameraIntake) -> tuple[HealthStatus, str, str]:
    """Status, cause and what to do of one folder."""
    if camera.stalled_since is not None:
        return HealthStatus.DOWN, f"{camera.camera.folder} does not answer", "Check the share and the network to it."
    if camera.away is not None:
        return HealthStatus.DOWN, camera.away.cause, camera.away.hint
    if camera.gate.pause is not None:
        return HealthStatus.DEGRADED, camera.gate.why_closed, camera.gate.hint
    if camera.examiner.misfits.unreadable:
        path, why = next(iter(camera.examiner.misfits.unreadable.items()))
        others = f", and {len(camera.examiner.misfits.unreadable) - 1} more" if len(camera.examiner.misfits.unreadable) > 1 else ""
        return HealthStatus.DEGRADED, f"{display_name(path)}: {why}{others}", "Give the user that edged runs as read permission."
    if camera.tree.unlistable:
        path, why = next(iter(camera.tree.unlistable.items()))
        return HealthStatus.DEGRADED, f"{display_name(path)} is not listed: {why}", "Give read and search permission, or undo the mount."
    if camera.aftermath.trouble:
        cause = next(reversed(camera.aftermath.trouble.values()))
        return HealthStatus.DEGRADED, cause, "Give write permission on the folder and on move_to, or set after = keep."
    if camera.folder.inotify_refused and camera.camera.mode is not WatchMode.POLL:
        cause = f"{camera.folder.inotify_refused}; polling instead"
        return HealthStatus.DEGRADED, cause, _LIMITS
    return HealthStatus.OK, "", ""


def snapshot(camera: CameraIntake) -> CameraSnapshot:
    """From memory, at once."""
    examiner, outgoing, now, wall = camera.examiner, camera.outgoing, time.monotonic(), camera.utcnow()

    def since(monotonic: float) -> datetime:
        return wall - timedelta(seconds=now - monotonic)

    writing = [candidate for candidate in examiner.candidates.values() if candidate.writing or candidate.note][:SHOWN]
    return CameraSnapshot(
        name=camera.camera.name,
        folder=str(camera.camera.folder),
        recipe=camera.camera.recipe,
        mode=camera.folder.mode.value,
        waiting=examiner.waiting + outgoing.ready + outgoing.parked,
        in_flight=len(outgoing.flights) - outgoing.ready,
        writing=tuple(Writing(display_name(each.path), since(each.first_at), each.note) for each in writing),
        ignored=sum(directory.ignored for directory in camera.tree.directories.values()) + len(examiner.misfits.odd),
        overflows=camera.watches.overflows,
        last_name=display_name(examiner.last[0]) if examiner.last else None,
        last_seen=examiner.last[1] if examiner.last else None,
        stalled_since=camera.stalled_since,
        known=sum(len(directory.known) for directory in camera.tree.directories.values()),
        reconcile_took_s=camera.tree.reconcile_took_s,
    )


def whereabouts(camera: CameraIntake, name: str) -> list[dict[str, Any]]:
    """Of files without a result whose name, or path below the folder, is shown as `name`: camera, recipe, file, what, state, since.

    `what` is "waiting", "in flight" or "ignored"; `recipe` is the camera's until a sidecar or the path has named another.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, what, state, since in _states(camera, name.rpartition("/")[2]):
        shown = display_name(path)
        if name in (shown, shown.rpartition("/")[2]):
            flight = camera.outgoing.flights.get(path)
            recipe = flight.landing.recipe if flight else camera.camera.recipe
            about = {"camera": camera.camera.name, "recipe": recipe, "file": shown}
            found.setdefault(shown, {**about, "what": what, "state": state, "since": since})
    return list(found.values())


def unwanted(camera: CameraIntake, name: str) -> dict[str, Any] | None:
    """Why a file of this name would be none of the camera's; None when it would be."""
    reason = camera.folder.selection.explain(name.encode("utf-8", "backslashreplace"))
    if reason is None:
        return None
    state = f"a file of this name would be ignored: {reason}"
    return {"camera": camera.camera.name, "file": name, "what": "unwanted", "state": state, "since": None}


def _states(camera: CameraIntake, name: str) -> Iterator[tuple[bytes, str, str, datetime | None]]:
    for path, flight in camera.outgoing.flights.items():
        yield path, "in flight", "ready to be judged, or being judged", flight.landing.detected
    for path, candidate in camera.examiner.candidates.items():
        note = candidate.note or ("still being written" if candidate.writing else "waiting until it stands still")
        why = f" ({candidate.progress.why})" if candidate.writing and candidate.progress and candidate.progress.why else ""
        yield path, "waiting", camera.examiner.misfits.unreadable.get(path, note + why), candidate.detected
    for path, why in camera.examiner.misfits.unreadable.items():
        yield path, "waiting", why, None
    for path, why in camera.examiner.misfits.odd.items():
        yield path, "ignored", why, None
    for directory in camera.tree.directories.values():
        if directory.known.get(name) == LISTED:
            yield directory.child(name), "waiting", "its turn has not come, or its recipe is held", None
