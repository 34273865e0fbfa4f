"""After the commit: the copy in quarantine for what could not be judged, then keep, move or delete.

Invariants
- Called only for committed landings; the ledger remembers what is pending, so all of this may be lost and is resumed.
- A file is copied to quarantine before it is moved or deleted. A truncated one is never moved or deleted.
- A folder that hangs or refuses holds up nobody: what failed stays in its folder and is tried again later.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping, Sequence
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
        """The landing stays in flight until its copy is made, so that nobody disposes of the file before."""
        errors = [result_id for result_id, kind in zip(recorded.ids, recorded.kinds, strict=False) if kind is VerdictKind.ERROR]
        if recorded.outcome is Recording.RECORDED and errors:
            await self._copy(landing, errors[0])
        if self._camera.after is After.KEEP:
            self._outgoing.finish(landing)
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
        if recorded.outcome is not Recording.RECORDED and recorded.ids:
            # The ledger may count this image's disposal as done long ago: it was dropped once more.
            self._repeats[landing.path] = Pending(landing.path, landing.size, landing.mtime_ns, "", recorded.ids[0], landing.inode)
        # Several landings that end together share one round, and its directory syncs.
        self._waiting += 1
        async with self._lock:
            if self._waiting:
                self._waiting = 0
                await self._try_round()

    async def resume(self) -> None:
        """What a crash, a stall or a refusal left undone."""
        if self._camera.after is not After.KEEP:
            async with self._lock:
                await self._try_round()

    async def _try_round(self) -> None:
        try:
            self.undone = True
            await self._round()
            self.undone = bool(self._retry_at)
        except Unavailable:
            pass  # folder or ledger is away: the camera's loop resumes when it is back

    async def _round(self) -> None:
        now = time.monotonic()
        rows = [Pending(*row) for row in await self._recall.pending_disposal(self._camera.name)]
        listed = {row.path for row in rows}
        repeats = [self._repeats.pop(path) for path in list(self._repeats)]
        work = []
        for row in (*rows, *(repeat for repeat in repeats if repeat.path not in listed)):
            if row.path in self._outgoing.flights or self._retry_at.get(row.id, 0.0) > now:
                continue
            if row.path in self._keep:
                self._keep.discard(row.path)
                await self._recall.disposed(self._camera.name, row.path, row.id, Outcome.KEPT, None)
                continue
            inode = self._inodes.pop(row.path, None)
            work.append(Pending(row.path, row.size, row.mtime_ns, row.sha256, row.id, row.inode or inode))
        if not work:
            return
        resumed = {row.path for row in work} - self._outgoing.leaving.keys()
        self._outgoing.leaving.update(dict.fromkeys(resumed, False))
        try:
            for pending, result in await self._folder.thread.call_briefly(lambda: self._dispose(work)):
                await self._disposed(pending, result)
        finally:
            for path in resumed:
                if self._outgoing.leaving.pop(path, False):
                    self._names.look_again(path)

    def _dispose(self, work: Sequence[Pending]) -> list[Result]:
        """In the folder's thread."""
        results: list[Result] = []
        for pending in work:
            self._folder.thread.tick()
            try:
                results.append((pending, self._disposal.dispose(pending)))
            except OSError as error:
                results.append((pending, error))
        return results

    async def _disposed(self, pending: Pending, result: Disposed | OSError) -> None:
        if isinstance(result, OSError):
            name = display_name(pending.path)
            cause = f"{name} cannot be {'moved' if self._camera.after is After.MOVE else 'deleted'}: {result.strerror or result}"
            if result.errno == errno.EROFS:
                self.trouble["read-only"] = cause + "; judged files stay where they are"
                await self._recall.disposed(self._camera.name, pending.path, pending.id, Outcome.KEPT, None)
            else:
                self.trouble[pending.id] = cause
                self._retry_at[pending.id] = time.monotonic() + RETRY_S
            return
        self.trouble.pop(pending.id, None)
        self._retry_at.pop(pending.id, None)
        await self._recall.disposed(self._camera.name, pending.path, pending.id, result.outcome, result.new_path)
        if result.outcome in (Outcome.MOVED, Outcome.DELETED, Outcome.GONE):
            self._names.left(pending.path)
        elif result.outcome is Outcome.REPLACED:
            self._names.look_again(result.returned or pending.path)

    async def _copy(self, landing: Landing, result_id: str) -> None:
        """A copy that cannot be made is told, and costs nothing else: the original stays where `after` leaves it."""
        source, kept, cause = self._folder.absolute(landing.path), None, ""
        try:
            kept = await self._folder.thread.call_briefly(lambda: self._quarantine.keep(source, result_id, self._folder.thread.tick))
            cause = "" if kept else "it is larger than the whole quarantine may be"
        except OSError as error:
            cause = error.strerror or str(error)
        except Unavailable as error:
            cause = error.cause
        data = {"camera": landing.camera, "file": landing.name, "id": result_id, "copy": str(kept) if kept else None}
        self._tell("quarantine", data | ({"cause": f"not copied: {cause}"} if cause else {}))
        if cause and self._camera.after is After.DELETE:
            self._keep.add(landing.path)  # the only copy of a rejected image is not deleted
