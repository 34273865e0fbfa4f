"""The units are what systemd itself takes without a word, and hold what the daemon relies on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"NOT RUN: {program} is not installed (Debian: apt-get install systemd)")
    return found


def settings(unit: str) -> dict[str, list[str]]:
    """Key -> its values, over all sections."""
    found: dict[str, list[str]] = {}
    text = (UNITS / unit).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", " ")):
            found.setdefault(key, []).append(value)
    return found


def verify(folder: Path, *units: str) -> str:
    """What systemd-analyze says against these units (it also reads the machine's own)."""
    command = [needs("systemd-analyze"), "verify", "--man=no", *(str(folder / unit) for unit in units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if any(unit in line for unit in units))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as on a station where the programs are in place."""
    for unit in ("edged.service", "triton.service"):
        text = (UNITS / unit).read_text()
        for program in ("/opt/edged/bin/edged", "/opt/tritonserver/bin/tritonserver"):
            text = text.replace(f"ExecStart={program}", f"ExecStart={shutil.which('true')}")
        (tmp_path / unit).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(installed: Path) -> None:
    assert verify(installed, "edged.service", "triton.service") == ""


def test_systemd_would_have_found_a_misspelt_setting(installed: Path) -> None:
    unit = installed / "edged.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30", "WatchdogSecs=30"))
    assert "WatchdogSecs" in verify(installed, "edged.service")


def test_the_daemon_is_watched_and_started_again_except_with_a_wrong_configuration() -> None:
    unit = settings("edged.service")
    expected = {"Type": "notify", "WatchdogSec": "30", "Restart": "on-failure", "RestartPreventExitStatus": "78", "KillMode": "mixed"}
    assert {key: unit[key] for key in expected} == {key: [value] for key, value in expected.items()}
    assert unit["StartLimitIntervalSec"] == ["0"], "a station is never given up"
    assert unit["OOMPolicy"] == ["continue"], "a decoder that was killed must not end the service"


def test_nothing_hides_the_gpu_the_drop_folders_or_the_shared_memory_from_the_daemon() -> None:
    unit = settings("edged.service")
    hiding = {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "ProtectHome",
        "PrivateUsers",
        "PrivateNetwork",
        "InaccessiblePaths",
    }
    assert not hiding & set(unit)
    assert unit["ProtectSystem"] == ["full"]
    assert unit["RemoveIPC"] == ["no"]


def test_triton_listens_on_loopback_loads_nothing_by_itself_and_may_not_write_the_repository() -> None:
    unit = settings("triton.service")
    (command,) = unit["ExecStart"]
    for option in ("http", "grpc", "metrics"):
        assert f"--{option}-address=127.0.0.1" in command
    assert "--model-control-mode=explicit" in command
    assert "--load-model" not in command
    assert unit["ReadOnlyPaths"] == ["/var/lib/edged"]
    assert unit["Group"] == settings("edged.service")["Group"]


def test_users_folders_and_every_credential_of_the_unit_are_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: making users in a root folder needs root")
    (tmp_path / "etc").mkdir()
    for program, kind in (("systemd-sysusers", []), ("systemd-tmpfiles", ["--create"])):
        config = UNITS / f"edged.{program.removeprefix('systemd-')}.conf"
        done = subprocess.run(
            [needs(program), *kind, f"--root={tmp_path}", config], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
    users = {line.split(":")[0]: int(line.split(":")[2]) for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert groups["edged"] == "triton"
    models = (tmp_path / "var/lib/edged/models").stat()
    assert (models.st_uid, models.st_mode & 0o7777) == (users["edged"], 0o2750)
    for credential in settings("edged.service")["LoadCredential"]:
        file = tmp_path / credential.split(":")[1].lstrip("/")
        assert (file.stat().st_uid, file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0, 0o600, 0o700)
