"""A camera's folder as a place that may be missing, unmounted, replaced or hang.

Invariants
- Every access runs in the folder's thread, against the place (device, inode) that `check` accepted last.
- When a mount that held the folder is gone, the bare directory under it is not the folder: it is away, and nothing counts as vanished.
"""

# ruff: noqa: PTH118
# Paths here are bytes, as the file system holds them.

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from edged.config import Camera, IdentityKind, WatchMode
from edged.errors import Unavailable
from edged.intake import looking
from edged.intake.claim import Claim
from edged.intake.finding import Found, Sought, first_of, places_of
from edged.intake.known import Roll
from edged.intake.looking import Glance, Listing, Place, Sight, Wanted
from edged.intake.selection import Selection
from edged.intake.sidecar import digest, read_sidecar
from edged.intake.thread import FolderThread
from edged.mounts import Mount, absent_mount, mode_for, mount_of

T = TypeVar("T")
_STAMPS = 5  # CLOCK_REALTIME_COARSE: with it Linux stamps files


_HINTS = {
    errno.ENOENT: "Create the folder, mount its share, or correct `folder` of this camera.",
    errno.EACCES: "Give the user that edged runs as read and search permission on the folder.",
    errno.ENOTDIR: "Correct `folder` of this camera: a file has this name.",
}
_SHARE = "Check the share and the network to it; edged goes on by itself when it is back."


class Folder:
    """`place` and `mount` are those of the last successful `check`."""

    def __init__(self, camera: Camera, selection: Selection, thread: FolderThread) -> None:
        self.camera, self.selection, self.thread = camera, selection, thread
        self.root = os.fsencode(camera.folder)
        self.what = f"folder:{camera.name}"
        self.place: Place | None = None
        self.mount: Mount | None = None
        self.inotify_refused = ""
        self._claim = Claim(self.what, str(camera.folder))

    @property
    def mode(self) -> WatchMode:
        if self.inotify_refused:
            return WatchMode.POLL
        return mode_for(self.mount, self.camera.mode) if self.mount else self.camera.mode

    async def check(self) -> bool:
        """Is the folder there, and the same place as before? True when it is another (or the first).

        Raises Unavailable; also while another instance of edged watches it.
        """
        try:
            place, mount = await self.thread.call(self._inspect)
        except OSError as error:
            self._claim.give_back()
            raise self.away(error) from None
        except Unavailable:
            self._claim.give_back()
            raise
        self._claim.take(place)
        changed = place != self.place
        self.place, self.mount = place, mount
        return changed

    def _inspect(self) -> tuple[Place, Mount]:
        with looking.folder(self.root, None) as fd:
            facts = os.fstat(fd)
        place = (facts.st_dev, facts.st_ino)
        if place == self.place and self.mount is not None:
            return place, self.mount
        path = os.path.realpath(self.camera.folder)
        mount = mount_of(path)
        if self.mount is not None and len(mount.point) < len(self.mount.point):
            raise Unavailable(self.what, f"{self.mount.source} is no longer mounted at {self.mount.point}", _SHARE)
        if self.mount is None and (point := absent_mount(path, mount)) is not None:
            raise Unavailable(self.what, f"{point} stands in /etc/fstab and is not mounted", "Mount it; edged goes on by itself.")
        return place, mount

    def away(self, error: OSError) -> Unavailable:
        if isinstance(error, looking.Moved):
            return Unavailable(self.what, "another directory lies under this path now", _SHARE)
        cause = f"{self.camera.folder}: {error.strerror or error}"
        return Unavailable(self.what, cause, _HINTS.get(error.errno or 0, _SHARE))

    async def look(self, wanted: Sequence[Wanted]) -> list[Sight]:
        """Raises Unavailable when the folder itself is away."""
        holes_tell = self.mount is not None and self.mount.tells_holes
        return await self._call(lambda: looking.look(self.root, self.place, wanted, holes_tell, self.thread.tick))

    async def glances(self, directories: Sequence[bytes]) -> list[Glance]:
        return await self._call(lambda: looking.glances(self.root, self.place, directories))

    async def moment(self) -> int:
        """Now, by the clock that stamps the files; a share does not tell, so there it is the folder's own last change."""
        network = self.mount is not None and self.mount.network
        return await self._call(lambda: looking.changed(self.root, self.place) if network else time.clock_gettime_ns(_STAMPS))

    async def listing(self, directory: bytes, roll: Roll) -> Listing:
        """Raises Unavailable for the folder, OSError for a directory below it."""
        recursive = self.camera.recursive
        if directory:
            return await self.thread.call(lambda: Listing(self.root, self.place, directory, roll, recursive))
        return await self._call(lambda: Listing(self.root, self.place, directory, roll, recursive))

    async def sidecars(self, path: bytes) -> tuple[dict[IdentityKind, bytes], dict[IdentityKind, str]]:
        """What sidecars there are of the kinds the camera names, and why those that are there cannot be read."""
        kinds = {source.kind for source in self.camera.identity} & {IdentityKind.SIDECAR_JSON, IdentityKind.SIDECAR_XML}

        def read() -> tuple[dict[IdentityKind, bytes], dict[IdentityKind, str]]:
            found: dict[IdentityKind, bytes] = {}
            refused: dict[IdentityKind, str] = {}
            for kind in kinds:
                try:
                    data = read_sidecar(self.camera.folder, path, kind)
                except OSError as error:
                    refused[kind] = f"the sidecar cannot be read: {error.strerror}"
                    continue
                if data is not None:
                    digest(kind, data)
                    found[kind] = data
            return found, refused

        return await self.thread.call(read) if kinds else ({}, {})

    async def lies(self, path: bytes) -> bool:
        """Is there anything of this name now? A folder that is away shows nothing."""

        def look() -> bool:
            with looking.folder(self.root, self.place) as fd:
                os.stat(path, dir_fd=fd, follow_symlinks=False)
            return True

        try:
            return await self.thread.call_briefly(look)
        except (OSError, ValueError, Unavailable):
            return False

    async def find(self, sought: Sought) -> Found | None:
        """Where a judged file lies outside quarantine. Raises Unavailable when a place cannot be looked at."""

        def look() -> Found | None:
            with looking.folder(self.root, self.place):  # a share that is not mounted is away, not empty
                return first_of(places_of(self.root, sought), sought, self.thread.tick)

        try:
            return await self.thread.call_briefly(look)
        except OSError as error:
            raise self.away(error) from None

    def absolute(self, path: bytes) -> bytes:
        return os.path.join(self.root, path) if path else self.root

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            return await self.thread.call(work)
        except OSError as error:
            raise self.away(error) from None
