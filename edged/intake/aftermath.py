"""After the commit: the copy in quarantine for what could not be judged, then keep, move or delete.

Invariants
- Called only for committed landings; the ledger remembers what is pending, so all of this may be lost and is resumed.
- A file is copied to quarantine before it is moved or deleted. A truncated one is never moved or deleted.
- A folder that hangs or refuses holds up nobody: what failed stays in its folder and is tried again later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from edged.config import After
from edged.errors import Unavailable
from edged.intake.disposal import Disposal, Disposed, Outcome, Pending
from edged.intake.folder import Folder
from edged.intake.outgoing import Outgoing
from edged.intake.quarantine import Quarantine
from edged.intake.recall import Recall
from edged.nouns import Landing, Recorded, Recording, VerdictKind, display_name

RETRY_S = 60.0
ROUND = 256
Result = tuple[Pending, Disposed | OSError]


class Settled(Protocol):
    """Told what became of a path."""

    def left(self, path: bytes) -> None: ...
    def look_again(self, path: bytes) -> None: ...


class Aftermath:
    """One camera's. `tell(kind, data)` queues an event."""

    def __init__(
        self,
        folder: Folder,
        disposal: Disposal,
        quarantine: Quarantine,
        recall: Recall,
        outgoing: Outgoing,
        names: Settled,
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._folder, self._disposal, self._quarantine, self._recall = folder, disposal, quarantine, recall
        self._outgoing, self._names, self._tell = outgoing, names, tell
        self._camera = folder.camera
        self._inodes: dict[bytes, int] = {}
        self._repeats: dict[bytes, Pending] = {}
        self._keep: set[bytes] = set()
        self._retry_at: dict[str, float] = {}
        self._lock = asyncio.Lock()
        self._waiting = 0
        self.trouble: dict[str, str] = {}
        self.undone = True

    async def done(self, landing: Landing, recorded: Recorded) -> None:
        """The landing stays in flight until its copy is made, so that nobody disposes of the file before. Never raises for a peer."""
        if recorded.outcome is Recording.RECORDED and VerdictKind.ERROR in recorded.kinds:
            await self.copy(landing, recorded.ids[0])
        if self._camera.after is After.KEEP:
            self._outgoing.finish(landing)
            if not recorded.ids:
                return
            with contextlib.suppress(Unavailable):  # else a later after = delete would take what lies here from before
                await self._recall.disposed(self._camera.name, landing.path, recorded.ids[0], Outcome.KEPT, None)
            return
        self._outgoing.leaving[landing.path] = False
        self._outgoing.finish(landing)
        try:
            await self._dispose_of(landing, recorded)
        finally:
            if self._outgoing.leaving.pop(landing.path, False):
                self._names.look_again(landing.path)

    async def _dispose_of(self, landing: Landing, recorded: Recorded) -> None:
        if landing.rejected is not None:
            self._keep.add(landing.path)
        self._inodes[landing.path] = landing.inode
        if recorded.outcome is not Recording.RECORDED and recorded.ids and VerdictKind.ERROR not in recorded.kinds:
            # The ledger may count this image's disposal as done long ago: it was dropped once more.
            self._repeats[landing.path] = Pending(landing.path, landing.size, landing.mtime_ns, "", recorded.ids[0], inode=landing.inode)
        if len(self._retry_at) >= ROUND:
            return  # the folder refuses everything: trying is left to `resume`
        # Several landings that end together share one round, and its directory syncs.
        self._waiting += 1
        async with self._lock:
            if self._waiting:
                self._waiting = 0
                await self._rounds()

    async def resume(self) -> None:
        """What a crash, a stall or a refusal left undone."""
        if self._camera.after is not After.KEEP:
            async with self._lock:
                await self._rounds()

    async def _rounds(self) -> None:
        self.undone = True
        tried: set[str] = set()
        try:
            while await self._round(tried):
                pass
            self.undone = bool(self._retry_at)
        except Unavailable:
            pass  # folder or ledger is away: the camera's loop resumes when it is back

    async def _round(self, tried: set[str]) -> bool:
        """At most `ROUND` files, none of them twice; true when there may be more."""
        now, work = time.monotonic(), list[Pending]()
        rows = [Pending(*row) for row in await self._recall.pending_disposal(self._camera.name)]
        listed = {row.path for row in rows}
        repeats = [self._repeats.pop(path) for path in list(self._repeats)]
        for row in (*rows, *(repeat for repeat in repeats if repeat.path not in listed)):
            if row.id in tried or row.path in self._outgoing.flights or self._retry_at.get(row.id, 0.0) > now:
                continue
            if len(work) == ROUND:
                self._repeats.update({repeat.path: repeat for repeat in repeats if repeat.path not in listed and repeat not in work})
                break
            inode = row.inode or self._inodes.get(row.path)
            reason = "truncated" if row.path in self._keep else row.reason
            work.append(replace(row, inode=inode, reason=reason))
        if not work:
            return False
        tried.update(row.id for row in work)
        resumed = {row.path for row in work} - self._outgoing.leaving.keys()
        self._outgoing.leaving.update(dict.fromkeys(resumed, False))
        try:
            for pending, result in await self._folder.thread.call_briefly(lambda: self._dispose(work)):
                await self._disposed(pending, result)
        finally:
            for path in resumed:
                if self._outgoing.leaving.pop(path, False):
                    self._names.look_again(path)
        return len(rows) >= ROUND

    def _dispose(self, work: Sequence[Pending]) -> list[Result]:
        """In the folder's thread."""
        results: list[Result] = []
        for pending in work:
            self._folder.thread.tick()
            try:
                results.append((pending, self._dispose_one(pending)))
            except OSError as error:
                results.append((pending, error))
        return results

    def _dispose_one(self, pending: Pending) -> Disposed:
        """A truncated image stays. A rejected one goes only once it is in quarantine, or, when it is merely moved, in any case."""
        if pending.reason.startswith("truncated"):
            return Disposed(Outcome.KEPT)
        if pending.verdict == VerdictKind.ERROR:
            source = self._folder.absolute(pending.path)
            kept = None
            with contextlib.suppress(OSError):
                kept = self._quarantine.keep(source, pending.id, self._folder.thread.tick)
            if kept is None and self._camera.after is After.DELETE:
                return Disposed(Outcome.KEPT)
        return self._disposal.dispose(pending)

    async def _disposed(self, pending: Pending, result: Disposed | OSError) -> None:
        if isinstance(result, OSError):
            name = display_name(pending.path)
            cause = f"{name} cannot be {'moved' if self._camera.after is After.MOVE else 'deleted'}: {result.strerror or result}"
            if result.errno != errno.EROFS:
                self.trouble[pending.id] = cause
                self._retry_at[pending.id] = time.monotonic() + RETRY_S
                return
            self.trouble["read-only"] = cause + "; judged files stay where they are"
            result = Disposed(Outcome.KEPT)
        await self._recall.disposed(self._camera.name, pending.path, pending.id, result.outcome, result.new_path)
        self.trouble.pop(pending.id, None)
        self._retry_at.pop(pending.id, None)
        self._keep.discard(pending.path)
        self._inodes.pop(pending.path, None)
        if result.outcome in (Outcome.MOVED, Outcome.DELETED, Outcome.GONE):
            self._names.left(pending.path)
        elif result.outcome is Outcome.REPLACED:
            self._names.look_again(result.returned or pending.path)

    async def copy(self, landing: Landing, result_id: str) -> None:
        """A copy that cannot be made is told, and costs nothing else: the original stays where `after` leaves it."""
        source, kept, cause = self._folder.absolute(landing.path), None, ""
        if landing.again is not None:
            source = os.path.join(os.fsencode(landing.again.folder), landing.again.path)  # noqa: PTH118 - bytes
        try:
            kept = await self._folder.thread.call_briefly(lambda: self._quarantine.keep(source, result_id, self._folder.thread.tick))
            cause = "" if kept else "it is larger than the whole quarantine may be"
        except OSError as error:
            cause = error.strerror or str(error)
        except Unavailable as error:
            cause = error.cause
        data = {"camera": landing.camera, "file": landing.name, "id": result_id, "copy": str(kept) if kept else None}
        self._tell("quarantine", data | ({"cause": f"not copied: {cause}"} if cause else {}))
        if cause and self._camera.after is After.DELETE and landing.again is None:
            self._keep.add(landing.path)  # the only copy of a rejected image is not deleted
