"""What may lie in a model package: plain files that the manifest lists, of known kinds, and nothing that Triton would load or run.

Invariants
- Only regular files below the package, reached through no link.
- An ONNX model reads its weights from itself and from listed files beside it, whatever path it writes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edged.errors import ModelMismatch
from edged.inference.onnx_files import NotOnnx, external_files

if TYPE_CHECKING:
    from edged.inference.manifest import Manifest

MAX_BESIDE_BYTES = 64 * 1024 * 1024
"""A file beside the model: a golden image, a list of labels, a card."""

# What Triton could load or run (.so, .pt, .pkl, a config of the package's own) is in none of these; .py is looked at where it is installed.
_WEIGHTS = frozenset((".onnx", ".plan", ".data", ".bin", ".npz"))
_BESIDE = frozenset((".json", ".md", ".txt", ".csv", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"))


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Every listed file is there, a regular file, not too large, and has its hash, and no model reads a file that is not listed;
    ModelMismatch naming the first that is not so."""
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            facts = path.lstat()
            if not stat.S_ISREG(facts.st_mode) or any(above.is_symlink() for above in _between(directory, path)):
                raise ModelMismatch(directory.name, f"{name} is not a regular file", "Deploy the package again.")
            if facts.st_size > MAX_BESIDE_BYTES and path.suffix.lower() not in _WEIGHTS:
                raise ModelMismatch(directory.name, f"{name} is larger than {MAX_BESIDE_BYTES} bytes", "Leave it out of the package.")
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise ModelMismatch(directory.name, f"the package lacks the file {name}", "Deploy the package again.") from None
        except OSError as error:
            raise ModelMismatch(directory.name, f"{name} cannot be read: {error.strerror}", "Check the file's permissions.") from None
        if found != expected:
            raise ModelMismatch(
                directory.name, f"{name} has the sha256 {found[:12]}..., the manifest says {expected[:12]}...", "Deploy the package again."
            )

    for name in (name for name in manifest.files if name.lower().endswith(".onnx")):
        _verify_external(directory, name, manifest)


def _verify_external(directory: Path, name: str, manifest: Manifest) -> None:
    """The tensors of an ONNX model lie in it or in listed files beside it: Triton would follow any path."""
    try:
        beside = external_files(directory / name)
    except NotOnnx as error:
        raise ModelMismatch(directory.name, f"{name} is no ONNX model: {error}", "Deploy the package again.") from None
    except OSError as error:
        raise ModelMismatch(directory.name, f"{name} cannot be read: {error.strerror}", "Check the file's permissions.") from None
    for found in sorted(beside):
        if PurePosixPath(name).parent.joinpath(found).as_posix() not in manifest.files:
            raise ModelMismatch(
                directory.name,
                f"{name} reads its weights from {found[:100]!r}, which the manifest does not list",
                "Deploy a model that holds its weights, or list the file beside it.",
            )


def read_plain(path: Path, most: int) -> bytes:
    """At most `most` bytes of a regular file; a link is not followed, a FIFO not waited for."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(most)


def _between(directory: Path, path: Path) -> list[Path]:
    """The folders between the package's own and the file."""
    return [above for above in path.parents if above.is_relative_to(directory) and above != directory]


def _require_plain(path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path or str(PurePosixPath(path)) != path:
        raise ValueError(f"files lists {path!r}, which is not a plain path below the package")


def require_listable(path: str) -> None:
    """ValueError for a path that a manifest may not list."""
    _require_plain(path)
    suffix = PurePosixPath(path).suffix.lower()
    if not path.isprintable() or len(path) > 255 or (suffix != ".py" and suffix not in _WEIGHTS | _BESIDE) or path == "manifest.json":
        raise ValueError(f"files lists {path[:100]!r}, which has no place in a package: it is no model, image or text")
