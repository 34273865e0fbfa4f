"""Images that are judged again: asked for, found, sent the same way as a landing, and told when they are done.

    ask --> a row in the ledger --> [find the bytes] --Landing--> the landings' channel ... pipeline ... --> put_back | done | vanished

Invariants
- What was asked for is a row; nothing else is durable. After a crash the rows that are open are read and sent again.
- At most `UNDER_WAY` are in the channel or being judged: new images are never kept waiting by more than that.
- The bytes are proven (size, sha256) before they are sent, and again by the journey: another file never gets this landing's verdict.
- The file is never moved, deleted or disposed of again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import structlog

from edged.channel import ChannelClosed, Lanes
from edged.config import Camera, IdentityKind
from edged.errors import Conflict, Unavailable
from edged.failpoints import reach
from edged.intake import Found, Sought, identify
from edged.ledger.judged import Judged, Rejudgement
from edged.ledger.rejudgement import ASKED, RELEASED, Rejudgements
from edged.nouns import Again, Change, Frame, Identity, Landing, Recorded, VerdictKind

log = structlog.get_logger("edged.rejudging")

UNDER_WAY: Final = 8
TICK_S: Final = 0.25
AGAIN_S: Final = 2.0
GONE_HINT: Final = "Drop the image again; or see `edged quarantine list` and the folder that `edged trace` names."


class Finder(Protocol):
    async def find(self, camera: str, sought: Sought, *, kept_only: bool = False) -> Found | None: ...
    async def keep_copy(self, landing: Landing, result_id: str) -> None: ...


class Rejudging:
    """`told`: what a result's `data` says of identity, given the recipe that judged it and the camera's frame; `recipes`: all names."""

    def __init__(
        self,
        *,
        rejudgements: Rejudgements,
        finder: Finder,
        landings: Lanes[Landing],
        held: Callable[[str, str], bool],
        cameras: Sequence[Camera],
        recipes: Sequence[str],
        told: Callable[[Mapping[str, Any], str, Frame | None], Identity],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rejudgements, self._finder, self._landings, self._held = rejudgements, finder, landings, held
        self._cameras = {camera.name: camera for camera in cameras}
        self._recipes, self._told, self._monotonic = frozenset(recipes), told, monotonic
        self._waiting: dict[int, Rejudgement] = {}
        self._not_before: dict[int, float] = {}
        self._sending: set[int] = set()
        self._under_way: dict[tuple[int, int], tuple[Rejudgement, Found]] = {}
        self._woken = asyncio.Event()

    # --- asking

    async def ask(
        self,
        id_: str,
        *,
        who: str,
        recipe: str | None = None,
        released: bool = False,
        change: Callable[[Judged, Rejudgement], Change] | None = None,
    ) -> Rejudgement:
        """By a result's id. LookupError: no such result; ValueError: no such recipe; Conflict `image-gone`, `rejudgement-open` ...

        `released`: the copy that is kept in quarantine, nothing else. What cannot be looked at now is Unavailable.
        """
        judged = await self._rejudgements.judged(id_)
        if judged is None:
            raise LookupError(id_)
        if recipe is not None and recipe not in self._recipes:
            raise ValueError(f"There is no recipe {recipe}; there are {', '.join(sorted(self._recipes))}.")
        self._require_known(judged)
        if await self._find(judged, kept_only=released) is None:
            where = "in quarantine" if released else "in quarantine, in its folder or where it was moved to"
            raise Conflict("image-gone", f"The content that was judged as {judged.name} is no longer {where}.", GONE_HINT)
        row = await self._rejudgements.ask(
            judged,
            RELEASED if released else ASKED,
            who,
            recipe=recipe,
            change=None if change is None else lambda row: change(judged, row),
        )
        reach("rejudging.asked", judged.path)
        self.add(row)
        return row

    def _require_known(self, judged: Judged) -> None:
        if judged.camera not in self._cameras:
            hint = "Configure it again, or drop the image into another camera's folder."
            raise Conflict("camera-gone", f"Its camera {judged.camera} is no longer configured.", hint)
        if not judged.sha256:
            hint = "Drop it again under a new name."
            raise Conflict("image-gone", f"{judged.name} was never hashed, so nothing proves that a file is the judged one.", hint)

    async def _find(self, judged: Judged, *, kept_only: bool) -> Found | None:
        sought = Sought(judged.size, judged.sha256, judged.places, judged.copies)
        return await self._finder.find(judged.camera, sought, kept_only=kept_only)

    def add(self, row: Rejudgement) -> None:
        """A row that is committed."""
        self._waiting[row.number] = row
        self._woken.set()

    @property
    def waiting(self) -> int:
        """How many are to be judged again; those under way are among them."""
        return len(self._waiting)

    # --- sending

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until the channel closes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_at(stop), name="rejudging-stop")
            await self._resume(stop)
            while not stop.is_set():  # asked after each wake, and `stop` is set before it wakes us
                self._woken.clear()
                for row in list(self._waiting.values()):
                    if len(self._sending) + len(self._under_way) < UNDER_WAY and self._due(row):
                        self._sending.add(row.number)
                        group.create_task(self._send(row), name=f"rejudge-{row.number}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), TICK_S if self._waiting else None)

    def _due(self, row: Rejudgement) -> bool:
        sent = row.number in self._sending or (row.judged.row, row.judgement) in self._under_way
        return not sent and self._not_before.get(row.number, 0.0) <= self._monotonic()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._woken.set()

    async def _resume(self, stop: asyncio.Event) -> None:
        """What was open when we ended last."""
        while not stop.is_set():
            try:
                for row in await self._rejudgements.open():
                    self._waiting.setdefault(row.number, row)
            except Unavailable:
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _send(self, row: Rejudgement) -> None:
        """A full lane keeps only its own recipe's waiting."""
        try:
            landing = await self._prepared(row)
            if landing is not None:
                await self._landings.send(landing)
        except ChannelClosed:
            pass  # we end; the row is open
        finally:
            self._sending.discard(row.number)

    async def _prepared(self, row: Rejudgement) -> Landing | None:
        """None: not now, or never. A place or a ledger that is away is tried again, as is a recipe that is held."""
        self._not_before[row.number] = self._monotonic() + TICK_S
        try:
            camera = self._cameras.get(row.judged.camera)
            if camera is None:
                await self._give_up(row, "camera-gone", f"its camera {row.judged.camera} is no longer configured")
                return None
            identity, recipe = self._identity(row, camera)
            if self._held(camera.name, recipe):
                return None
            found = await self._find(row.judged, kept_only=row.why == RELEASED)
            if found is None:
                await self._give_up(row, "image-gone", "it was gone before it could be judged again")
                return None
        except Unavailable:
            self._not_before[row.number] = self._monotonic() + AGAIN_S
            return None
        judged = row.judged
        self._under_way[judged.row, row.judgement] = (row, found)
        again = Again(judged.row, row.judgement, judged.sha256, found.folder, found.path, found.mtime_ns, found.inode)
        return judged.landing(again, camera.folder, identity, recipe, row.sidecar, self._monotonic())

    def _identity(self, row: Rejudgement, camera: Camera) -> tuple[Identity, str]:
        """Who the image is, as it was said first or as a late sidecar says, and the recipe as it is configured now."""
        judged = row.judged
        if row.sidecar is not None and row.sidecar_kind is not None:
            sidecars = {IdentityKind(row.sidecar_kind): row.sidecar}
            identity = identify(camera.identity, judged.path, sidecars, camera.die_frame)
        elif judged.bodies:
            identity = self._told(judged.bodies[0]["data"], judged.recipe or "", camera.die_frame)
        else:
            identity = identify(camera.identity, judged.path, {}, camera.die_frame)
        wishes = (row.recipe, identity.recipe if row.sidecar is not None or not judged.bodies else None, judged.recipe)
        recipe = next((wish for wish in wishes if wish in self._recipes), camera.recipe)
        if row.recipe is not None:  # somebody said which, so the name that nobody configured counts no more
            identity = replace(identity, recipe=None)
        return identity, str(recipe)

    async def _give_up(self, row: Rejudgement, outcome: str, cause: str) -> None:
        await self._rejudgements.give_up(row, outcome, cause)
        log.warning("rejudging.given_up", image=row.judged.name, camera=row.judged.camera, judgement=row.judgement, cause=cause)
        self._forget(row)

    def _forget(self, row: Rejudgement) -> None:
        self._waiting.pop(row.number, None)
        self._not_before.pop(row.number, None)
        self._woken.set()

    # --- what becomes of them

    def put_back(self, landing: Landing) -> None:
        """It was not judged; its row is still open, and it is looked for again."""
        if (sent := self._taken(landing)) is not None:
            self._not_before[sent[0].number] = self._monotonic() + AGAIN_S

    async def vanished(self, landing: Landing) -> None:
        """Gone from where it was found: perhaps it was moved meanwhile."""
        self.put_back(landing)

    async def done(self, landing: Landing, recorded: Recorded) -> None:
        """After the commit, which has ended the row."""
        sent = self._taken(landing)
        if sent is None:
            return
        row, found = sent
        self._forget(row)
        if VerdictKind.ERROR in recorded.kinds and not found.kept:
            await self._finder.keep_copy(landing, recorded.ids[0])

    def _taken(self, landing: Landing) -> tuple[Rejudgement, Found] | None:
        return None if landing.again is None else self._under_way.pop((landing.again.row, landing.again.judgement), None)
