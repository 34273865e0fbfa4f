"""Sidecars that came late: the image is decided once more from its stored scores, or judged again where the sidecar names another recipe.

Invariants
- Once for each landing: the transaction that takes a sidecar into account is the one that waits for it no more.
- What is not done when we end is done after a restart: the ledger still waits, and the first listing shows the sidecar.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from edged.channel import Channel, ChannelClosed
from edged.config import Camera, IdentityKind, Recipe
from edged.errors import Conflict, Unavailable
from edged.intake import Sought, identify
from edged.intake.finding import Found
from edged.ledger.judged import Judged, Rejudgement
from edged.ledger.rejudgement import LATE, Rejudgements
from edged.nouns import Again, Identity, Landing, LateSidecar, PageResult, Verdict, VerdictKind

log = structlog.get_logger("edged.late")

WHO: Final = "edged"
AGAIN_S: Final = 1.0
MAX_AGAIN: Final = 1000


class Finder(Protocol):
    async def find(self, camera: str, sought: Sought, *, kept_only: bool = False) -> Found | None: ...
    async def sidecar_follows(self, camera: str, path: bytes, moved_to: str | None) -> None: ...


class PageOf(Protocol):
    """The page as a result's `data` tells it, now of `landing`."""

    def __call__(self, data: Mapping[str, Any], landing: Landing, *, decided: datetime, judgement: int) -> PageResult: ...


class Identified(Protocol):
    """The verdict as it would have been with an identity that is complete, or is not."""

    def __call__(self, recipe: Recipe | None, verdict: Verdict, *, complete: bool) -> Verdict: ...


class LateSidecars:
    """`judge_again` takes a row that needs a new look at its image."""

    def __init__(
        self,
        *,
        late: Channel[LateSidecar],
        rejudgements: Rejudgements,
        judge_again: Callable[[Rejudgement], None],
        finder: Finder,
        cameras: Sequence[Camera],
        recipes: Mapping[str, Recipe],
        page_of: PageOf,
        identified: Identified,
        utcnow: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._late, self._rejudgements, self._judge_again, self._finder = late, rejudgements, judge_again, finder
        self._again: list[LateSidecar] = []
        self._cameras, self._recipes = {camera.name: camera for camera in cameras}, recipes
        self._page_of, self._identified, self._utcnow, self._monotonic = page_of, identified, utcnow, monotonic

    async def run(self, stop: asyncio.Event) -> None:
        """Until the channel closes, or `stop`: what is left is seen again at the next start."""
        with contextlib.suppress(ChannelClosed):
            while not stop.is_set():
                again, self._again = self._again, []
                for sidecar in again:
                    await self._try(sidecar)
                if len(self._again) >= MAX_AGAIN:
                    await asyncio.sleep(AGAIN_S)  # the channel holds the others, and then their cameras do
                    continue
                with contextlib.suppress(TimeoutError):
                    await self._try(await asyncio.wait_for(self._late.receive(), AGAIN_S if self._again else None))

    async def _try(self, sidecar: LateSidecar) -> None:
        try:
            await self._one(sidecar)
        except (Unavailable, Conflict):  # a ledger or share that is away; an image that is being judged again just now
            self._again.append(sidecar)

    async def _one(self, sidecar: LateSidecar) -> None:
        judged = await self._rejudgements.judged(sidecar.id)
        if judged is None:
            return
        camera = self._cameras[sidecar.camera]
        identity = identify(camera.identity, sidecar.path, {IdentityKind(sidecar.kind): sidecar.data}, camera.die_frame)
        facts = {"camera": camera.name, "image": judged.name, "lot_id": identity.material.lot_id, "wafer_id": identity.material.wafer_id}
        if judged.bodies and not self._names_another(judged, identity):
            row = await self._decide(judged, identity, sidecar, self._completed)
        elif await self._there(judged):
            row = await self._rejudgements.ask(judged, LATE, WHO, sidecar=(sidecar.kind, sidecar.data))
            self._judge_again(row)
        elif judged.bodies:
            row = await self._decide(judged, identity, sidecar, self._unseen)
        else:
            return  # neither its scores nor its pixels are left; the ledger stops waiting in time
        log.info("late.sidecar", **facts, judgement=row.judgement, id=row.id)
        for path, moved_to in judged.places:
            await self._finder.sidecar_follows(camera.name, path, moved_to)

    def _names_another(self, judged: Judged, identity: Identity) -> bool:
        """Another recipe than the one that was named, or nobody names the unknown one any more."""
        data = judged.bodies[0]["data"]
        unknown = any(body["data"]["reason"].startswith("recipe-unknown") for body in judged.bodies)
        return unknown if identity.recipe is None else identity.recipe != data["equipment"]["recipe"]

    async def _there(self, judged: Judged) -> bool:
        sought = Sought(judged.size, judged.sha256, judged.places, judged.copies)
        return bool(judged.sha256) and await self._finder.find(judged.camera, sought) is not None

    async def _decide(
        self, judged: Judged, identity: Identity, sidecar: LateSidecar, verdict: Callable[[Judged, Identity, Verdict], Verdict]
    ) -> Rejudgement:
        """From what the ledger holds: pixels and models are not asked."""

        def pages(row: Rejudgement) -> list[PageResult]:
            folder, recipe = self._cameras[sidecar.camera].folder, judged.recipe or str(self._cameras[sidecar.camera].recipe)
            again = Again(judged.row, row.judgement, judged.sha256, str(folder), judged.path, judged.mtime_ns, 0)
            landing = judged.landing(again, folder, identity, recipe, sidecar.data, self._monotonic())
            made = [self._page_of(body["data"], landing, decided=self._utcnow(), judgement=row.judgement) for body in judged.bodies]
            return [replace(page, verdict=verdict(judged, identity, page.verdict)) for page in made]

        return await self._rejudgements.ask(judged, LATE, WHO, decided=pages)

    def _completed(self, judged: Judged, identity: Identity, verdict: Verdict) -> Verdict:
        return self._identified(self._recipes.get(judged.recipe or ""), verdict, complete=identity.material.complete)

    def _unseen(self, _judged: Judged, identity: Identity, verdict: Verdict) -> Verdict:
        """Its sidecar names another recipe, and its pixels are gone."""
        if verdict.kind is VerdictKind.ERROR:
            return verdict
        return replace(verdict, kind=VerdictKind.REVIEW, reason=f"image-gone; recipe {identity.recipe} was never applied; {verdict.reason}")
