"""The live repository `{state_dir}/models` that Triton serves, seeded from the packages that edged was shipped with.

Invariants
- A package appears under its name complete, with verified hashes, fsynced, by one rename; or not at all.
- Only files that the manifest lists are copied. config.pbtxt and 1/model.py are always edged's own text, made from the manifest.
- Python code of a package's own is refused unless `allow_python`.
- A live package is hashed again at every start; a damaged one is replaced from the seed.
- The seed is only read. Nothing here is asynchronous: call it in a thread.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edged.errors import ModelMismatch, Unavailable
from edged.inference.content import verify_files
from edged.inference.manifest import MANIFEST, Manifest, read_manifest
from edged.inference.package_files import Backend, onnx_wrapper, triton_config
from edged.inference.selection import active_version, split_reference

CONFIG = "config.pbtxt"
WRAPPER = "1/model.py"
_SCRATCH = ".seeding-"


@dataclass(frozen=True, slots=True)
class Package:
    """One version in the live repository: verified."""

    manifest: Manifest
    directory: Path

    @property
    def label(self) -> str:
        """As recipes write it: `name:version`."""
        return f"{self.manifest.name}:{self.manifest.version}"


class Repository:
    """`problems` says, by folder name, why a package cannot be used."""

    def __init__(self, state_dir: Path, seed: Path | None, backend: str = "python", allow_python: bool = False) -> None:
        self.directory = state_dir / "models"
        self.problems: dict[str, str] = {}
        self._seed = seed
        self._backend = cast("Backend", backend)
        self._allow_python = allow_python
        self._packages: dict[str, Package] = {}

    def refresh(self) -> None:
        """Seeds what is new or damaged and verifies everything. Unavailable if the live repository cannot be written."""
        self.problems.clear()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_left_scratch()
            for folder in self._folders(self._seed):
                self._try_install(folder)
            found = [self._try_verify(folder) for folder in self._folders(self.directory)]
            self._packages = {package.directory.name: package for package in found if package is not None}
        except OSError as error:
            raise Unavailable(
                "triton", f"the model repository {self.directory} cannot be written: {error}", "Check the disk and the folder's owner."
            ) from error

    def packages(self) -> tuple[Package, ...]:
        return tuple(self._packages.values())

    def package(self, reference: str) -> Package:
        """The package that a recipe's `name` or `name:version` means; ModelMismatch if there is none that can be used."""
        name, version = split_reference(reference)
        versions = {p.manifest.version: p for p in self._packages.values() if p.manifest.name == name}
        if version is None and versions:
            return versions[active_version(versions)]
        if version is not None and version in versions:
            return versions[version]
        wanted = f"{name}__{version}" if version else f"{name}__"
        for folder, problem in sorted(self.problems.items()):
            if folder.startswith(wanted):
                raise ModelMismatch(reference, problem, f"Deploy a sound package of {name}.")
        there = ", ".join(sorted(p.label for p in self._packages.values())) or "none"
        raise ModelMismatch(reference, f"it is not in the model repository {self.directory}; there are: {there}")

    def _remove_left_scratch(self) -> None:
        """What a killed process left; `edged infer` may seed beside the daemon, so a living one's is not ours to touch."""
        for left in self.directory.parent.glob(f"{_SCRATCH}*"):
            owner = left.name.removeprefix(_SCRATCH).partition("-")[0]
            if owner == str(os.getpid()) or not Path("/proc", owner).exists():
                shutil.rmtree(left, ignore_errors=True)

    def _try_install(self, source: Path) -> None:
        try:
            self._install(source)
        except ModelMismatch as error:
            self.problems[source.name] = error.cause

    def _try_verify(self, directory: Path) -> Package | None:
        try:
            manifest = read_manifest(directory)
            verify_files(directory, manifest)
            self._generate(directory, manifest)
        except ModelMismatch as error:
            self.problems[directory.name] = error.cause
            return None
        self.problems.pop(directory.name, None)
        return Package(manifest, directory)

    def _install(self, source: Path) -> None:
        manifest = read_manifest(source)
        if own := [name for name in manifest.files if name.lower().endswith(".py") and not self._allow_python]:
            raise ModelMismatch(
                source.name,
                f"the package brings Python code of its own ({', '.join(own)}), which Triton would run; [models] allow_python permits it",
            )
        target = self.directory / source.name
        if _same_manifest(source, target) and _sound(target, manifest):
            return
        verify_files(source, manifest)
        scratch = self.directory.parent / f"{_SCRATCH}{os.getpid()}-{secrets.token_hex(4)}"
        fresh = scratch / source.name
        for name in (*manifest.files, MANIFEST):
            copied = fresh / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copied)
        verify_files(fresh, manifest)  # the source may have changed while it was copied
        self._generate(fresh, manifest)
        _settle_tree(fresh)
        if target.exists():
            target.rename(scratch / "replaced")
        fresh.rename(target)
        _sync(self.directory)
        shutil.rmtree(scratch, ignore_errors=True)

    def _generate(self, directory: Path, manifest: Manifest) -> None:
        """config.pbtxt and the wrapper as they must be; written only where they differ, so that Triton sees no change."""
        try:
            config = triton_config(manifest.model_dump(mode="json"), manifest.triton_name, self._backend)
        except ValueError as error:
            raise ModelMismatch(manifest.triton_name, str(error)) from None
        _write_if_different(directory / CONFIG, config)
        if self._backend == "python" and WRAPPER not in manifest.files:
            _write_if_different(directory / WRAPPER, onnx_wrapper())

    @staticmethod
    def _folders(repository: Path | None) -> Iterator[Path]:
        if repository is not None and repository.is_dir():
            yield from sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))


def _same_manifest(source: Path, target: Path) -> bool:
    try:
        return (source / MANIFEST).read_bytes() == (target / MANIFEST).read_bytes()
    except OSError:
        return False


def _sound(directory: Path, manifest: Manifest) -> bool:
    try:
        verify_files(directory, manifest)
    except ModelMismatch:
        return False
    return True


def _write_if_different(path: Path, text: str) -> None:
    try:
        if path.read_text() == text:
            return
    except (OSError, ValueError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.write_text(text)
    fresh.chmod(0o644)
    _sync(fresh)
    fresh.rename(path)
    _sync(path.parent)


def _settle_tree(directory: Path) -> None:
    """Readable for Triton's user whatever our umask is, and on the disk."""
    for path in (*directory.rglob("*"), directory):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
