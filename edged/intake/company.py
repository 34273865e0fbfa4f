"""What an image may wait for once it is settled: its sidecar, and its golden reference. Then: who it is.

Tools write an image and its reference together, in either order: a reference that is being written is waited for two polls at most, one
that does not even exist a second; then the image goes without it, and the recipe's `required` decides what that means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from edged.config import IdentityKind, Recipe
from edged.intake.candidates import Candidate
from edged.intake.folder import Folder
from edged.intake.identity import broken_sidecar, identify, sidecar_worth_waiting
from edged.intake.reference import reference_beside
from edged.intake.sidecar import names_beside
from edged.intake.window import Grade
from edged.nouns import Identity, Landing, display_name

log = structlog.get_logger("edged.intake")
_ASK_AGAIN_S = 0.25
_ABSENT_REFERENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """`wait_s` > 0: ask again then, `note` says what for. `sidecar`: the bytes of the one that was read. `late`: one may still come."""

    identity: Identity
    recipe: str
    sidecar: bytes | None
    wait_s: float = 0.0
    note: str = ""
    late: bool = False


class Company:
    """One camera's; `recipes` by name."""

    def __init__(self, folder: Folder, recipes: Mapping[str, Recipe]) -> None:
        self._folder, self._camera, self._recipes = folder, folder.camera, recipes
        self._frame = folder.camera.die_frame

    async def of(self, candidate: Candidate, *, still_s: float, hurried: bool) -> Arrived:
        """Who the image is, `still_s` after it settled; `hurried`: take what is there."""
        path = candidate.path
        sidecars, unread = await self._folder.sidecars(path) if self._camera.sidecars else ({}, {})
        broken = broken_sidecar(self._camera.identity, path, sidecars, unread)
        identity = identify(self._camera.identity, path, sidecars, self._frame)
        # A recipe that nobody configured stays in the identity; the camera's own prepares the image and the verdict says REVIEW.
        recipe = identity.recipe if identity.recipe in self._recipes else self._camera.recipe
        assert recipe is not None
        sidecar = next((sidecars[kind] for kind in (IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML) if kind in sidecars), None)
        left_s = 0.0 if hurried else self._camera.effective_sidecar_wait_s - still_s
        if left_s > 0 and sidecar_worth_waiting(self._camera.identity, path, sidecars):
            note = f"it waits for its sidecar{f', for {broken[1]}' if broken else ''}"
            return Arrived(identity, recipe, sidecar, min(left_s, _ASK_AGAIN_S), note)
        if not hurried and still_s < 2 * self._camera.poll_s:
            left_s = await self._reference_patience_s(path, self._recipes.get(recipe)) - still_s
            if left_s > 0:
                return Arrived(identity, recipe, sidecar, min(left_s, _ASK_AGAIN_S), "it waits for its golden reference")
        if broken:
            beside, facts = display_name(names_beside(path, broken[0])[0]), {"camera": self._camera.name, "image": display_name(path)}
            log.warning("intake.sidecar_unreadable", **facts, sidecar=beside, reason=broken[1], hint="The image goes without it.")
        late = bool(self._camera.sidecars) and sidecar_worth_waiting(self._camera.identity, path, sidecars)
        return Arrived(identity, recipe, sidecar, late=late)

    def landing(self, candidate: Candidate, arrived: Arrived, now: float, *, rejected: bool) -> Landing:
        """`now`: monotonic, when it was ready."""
        assert candidate.progress is not None
        size, mtime_ns, inode = candidate.progress.stamp
        return Landing(
            camera=self._camera.name,
            folder=str(self._camera.folder),
            path=candidate.path,
            size=size,
            mtime_ns=mtime_ns,
            inode=inode,
            identity=arrived.identity,
            recipe=arrived.recipe,
            detected=candidate.detected,
            settle_ms=(now - candidate.first_at) * 1000,
            settled_monotonic=now,
            rejected="truncated" if rejected else None,
            rejected_detail=candidate.progress.why if rejected else "",
            sidecar=arrived.sidecar,
            late_s=self._camera.sidecar_late_s if arrived.late else 0.0,
        )

    async def _reference_patience_s(self, path: bytes, recipe: Recipe | None) -> float:
        """How long after it settled an image may wait for its reference as that one is now; 0: it need not."""
        polls_s = 2 * self._camera.poll_s
        beside = reference_beside(path, recipe) if recipe else None
        if beside is None or beside == path:
            return 0.0
        sight = (await self._folder.look([(beside, None)]))[0]
        if sight.error or not sight.regular:
            return min(polls_s, _ABSENT_REFERENCE_S)
        sight = (await self._folder.look([(beside, sight.stamp)]))[0]
        whole = sight.structure is not None and sight.structure.grade is not Grade.INCOMPLETE
        return 0.0 if whole else polls_s
