"""doctor: looks at this machine and at every peer, and says in one sentence each what would not work."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from edged import __version__
from edged.cli import DEFAULT_CONFIG
from edged.config import Camera, Config, load
from edged.inference import probe
from edged.ledger import sqlite_version
from edged.mounts import is_network
from edged.nouns import HealthStatus
from edged.vision import sandbox
from edged.vision.condition import UNFILTERED_HINT
from edged.vitals.gpu import Nvml

DEV_SHM = Path("/dev/shm")  # noqa: S108 - the ring lives there by design


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    status: HealthStatus
    says: str
    hint: str = ""


def doctor(args: argparse.Namespace) -> int:
    """Exit 1 when something would not work."""
    config = load(args.config or DEFAULT_CONFIG)
    findings = [*_machine(config), *(f for camera in config.camera for f in _folder(camera)), *_peers(config)]
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.status.upper():9} {finding.what:18} {finding.says}")
            if finding.hint:
                print(f"{'':28} do: {finding.hint}")
    return 1 if any(finding.status is HealthStatus.DOWN for finding in findings) else 0


def _machine(config: Config) -> Iterator[Finding]:
    versions = f"edged {__version__}, Python {platform.python_version()}, OpenCV {cv2.__version__}, NumPy {np.__version__}"
    yield Finding("versions", HealthStatus.OK, f"{versions}, SQLite {sqlite_version()}")
    state = config.station.state_dir
    above = next(path for path in (state, *state.parents) if path.exists())
    free = shutil.disk_usage(above).free
    if what := is_network(above):
        yield Finding("state_dir", HealthStatus.DOWN, f"{state} lies on {what}.", "Put [station] state_dir on a local file system.")
    elif not os.access(above, os.W_OK | os.X_OK):
        yield Finding("state_dir", HealthStatus.DOWN, f"{above} cannot be written by this user.", "Give edged write access to it.")
    elif free < config.ledger.min_free_bytes:
        yield Finding("state_dir", HealthStatus.DOWN, f"{above} has {free:,} bytes free, fewer than min_free_bytes.", "Free some space.")
    else:
        yield Finding("state_dir", HealthStatus.OK, f"{state}, {free / 1e9:.0f} GB free")
    shm = shutil.disk_usage(DEV_SHM).free if DEV_SHM.is_dir() else 0
    enough = shm > 256 * 1024**2
    says = f"{shm / 1e6:.0f} MB free in {DEV_SHM} for the ring of prepared images"
    hint = "" if enough else "Enlarge it (mount -o remount,size=1G /dev/shm), or lower [decode] slots."
    yield Finding("shared memory", HealthStatus.OK if enough else HealthStatus.DEGRADED, says, hint)
    layers, problem = sandbox.tried()
    says = f"held by {', '.join(layers)}" if layers else "held by their limits alone"
    says = f"decoder processes are {says}{f'; {problem}' if problem else ''}"
    yield Finding("decoders", HealthStatus.DEGRADED if problem else HealthStatus.OK, says, UNFILTERED_HINT if problem else "")
    gpu = Nvml().sample()
    yield Finding("gpu", HealthStatus.OK if gpu.gpus else HealthStatus.UNKNOWN, gpu.reason or ", ".join(g.name for g in gpu.gpus))


def _folder(camera: Camera) -> Iterator[Finding]:
    what = f"camera {camera.name}"
    if not camera.folder.is_dir():
        yield Finding(what, HealthStatus.DOWN, f"{camera.folder} does not exist.", "Create it, mount it, or correct [[camera]] folder.")
    elif not os.access(camera.folder, os.R_OK | os.X_OK):
        yield Finding(what, HealthStatus.DOWN, f"{camera.folder} cannot be read by this user.", "Give edged read access to it.")
    elif camera.after != "keep" and not os.access(camera.folder, os.W_OK):
        hint = "Give write access, or set after = keep."
        yield Finding(what, HealthStatus.DEGRADED, f"after = {camera.after}, but {camera.folder} cannot be written.", hint)
    else:
        network = is_network(camera.folder)
        yield Finding(what, HealthStatus.OK, f"{camera.folder}{f' on {network}, so it is polled' if network else ''}")


def _peers(config: Config) -> Iterator[Finding]:
    for endpoint in config.triton.endpoints:
        said = probe(endpoint)
        if said.alive:
            yield Finding("triton", HealthStatus.OK, f"{endpoint}: {said.says}")
        else:
            hint = "Start it (systemctl start triton), or correct [triton] endpoints."
            yield Finding("triton", HealthStatus.DOWN, f"{endpoint}: {said.says}", hint)
    address = f"{config.mqtt.host}:{config.mqtt.port}"
    try:
        with socket.create_connection((config.mqtt.host, config.mqtt.port), timeout=3):
            yield Finding("broker", HealthStatus.OK, f"{address} takes connections")
    except OSError as error:
        hint = "Start the broker, or correct [mqtt] host and port; results wait in the outbox until then."
        yield Finding("broker", HealthStatus.DEGRADED, f"{address}: {error.strerror or error}.", hint)
