"""What strace saw of renames, new names and syncs: which of them a power cut could undo when the next acknowledgement was given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

STRACE = (
    "strace",
    "-f",
    "-qq",
    "-y",
    "-s",
    "400",
    "-e",
    "trace=renameat2,rename,renameat,mkdir,mkdirat,unlink,unlinkat,fsync,fdatasync,write",
)
_CALL = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_OPENED = re.compile(r"^\d+<([^>]*)>")


def undone(lines: Sequence[str], below: Sequence[str], ack: str) -> list[str]:
    """Sentences, one for each name below one of the folders that was changed and not synced when an `ack` line was written. A rename
    of a file that we wrote (it ends in `.part`) also needs the file's own sync before it."""
    open_changes: dict[str, str] = {}
    synced: set[str] = set()
    found: list[str] = []
    for line in lines:
        call = _CALL.match(line)
        if call is None or call["result"].startswith("-"):
            continue
        name, arguments = call["name"], call["arguments"]
        paths = [path for path in _QUOTED.findall(arguments) if any(path.startswith(folder) for folder in below)]
        opened = _OPENED.match(arguments)
        if name in ("fsync", "fdatasync") and opened:
            synced.add(opened[1])
            open_changes.pop(opened[1], None)
        elif name == "write" and f'"{ack}' in arguments:
            found += [f"{why}: {folder} was not synced before {_QUOTED.findall(arguments)[0]}" for folder, why in open_changes.items()]
            open_changes.clear()
        elif name.startswith("rename") and paths:
            if paths[0].endswith(".part") and paths[0] not in synced:
                found.append(f"{paths[0]} got its name and was not synced")
            for path in paths:
                open_changes[str(Path(path).parent)] = f"rename {' -> '.join(paths)}"
        elif (name.startswith(("mkdir", "unlink"))) and paths:
            open_changes[str(Path(paths[0]).parent)] = f"{name} {paths[0]}"
    return found
