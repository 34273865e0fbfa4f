"""Whatever is wrong outside, the daemon goes on, says one clear sentence, and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rigs.daemon import EDGED, Daemon
from rigs.mosquitto import Broker, BrokerOptions, Listener
from rigs.processes import wait_until
from rigs.triton import TritonServer, _require_triton

MAPS = sorted((Path(__file__).parents[1] / "data" / "wafer_maps" / "images").glob("*.png"))

CONFIG = """
[station]
enterprise = "acme"
site = "fab2"
area = "litho"
tool = "INSP07"
[triton]
endpoints = ["{triton}"]
[mqtt]
port = {port}
{mqtt}
[[recipe]]
name = "maps"
models = ["wafer_pattern"]
{recipes}
{cameras}
"""

CAMERA = """
[[camera]]
name = "{name}"
folder = "{folder}"
recipe = "{recipe}"
incomplete_after_s = 2
poll_s = 0.2
"""


class Rig:
    """A station of one test module: `folder(name)` is a camera's folder."""

    def __init__(self, home: Path, triton: TritonServer, broker: Broker, mes: Listener, daemon: Daemon) -> None:
        self.home, self.triton, self.broker, self.mes, self.daemon = home, triton, broker, mes, daemon

    def folder(self, name: str) -> Path:
        return self.home / "drop" / name

    def results(self, camera: str) -> list[dict[str, Any]]:
        topic = f"/result/{camera}/"
        return [json.loads(message.payload)["data"] for message in self.mes.messages if topic in message.topic]

    def wait_results(self, camera: str, count: int, timeout_s: float = 20) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.results(camera)) >= count, timeout_s, f"{count} results of {camera}; log:\n{self.daemon.said()}")
        return self.results(camera)

    def health(self, name: str) -> dict[str, Any]:
        checks = self.daemon.get("/readyz", 503)["checks"]
        return next((check for check in checks if check["name"] == name), {"status": "absent", "cause": ""})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    _require_triton()
    home = tmp_path_factory.mktemp("bad-input")
    broker = Broker(tmp_path_factory.mktemp("mosquitto"), BrokerOptions())
    broker.start()
    daemon = Daemon(home, "")
    triton = TritonServer(daemon.state / "models", home / "triton.log")
    triton.repository.mkdir(parents=True)
    cameras = "".join(
        CAMERA.format(name=name, folder=home / "drop" / name, recipe=recipe)
        for name, recipe in (("good", "maps"), ("late", "maps"), ("locked", "maps"), ("modelless", "nowhere"), ("odd", "maps"))
    )
    for name in ("good", "locked", "modelless", "odd"):  # the folder of `late` does not exist yet
        (home / "drop" / name).mkdir(parents=True)
    recipes = '[[recipe]]\nname = "nowhere"\nmodels = ["no_such_model"]'
    try:
        triton.start()
        daemon.config.write_text(CONFIG.format(triton=triton.grpc, port=broker.port, mqtt="", recipes=recipes, cameras=cameras))
        (home / "drop" / "locked").chmod(0)
        daemon.start_without_override()
        rig = Rig(home, triton, broker, broker.listen("acme/#"), daemon)
        yield rig
    finally:
        (home / "drop" / "locked").chmod(0o755)
        daemon.close()
        triton.kill()
        broker.close()


def place(rig: Rig, camera: str, name: bytes, data: bytes) -> None:
    folder = os.fsencode(rig.folder(camera))
    with open(folder + b"/.part", "wb") as file:  # noqa: PTH123 - the name is bytes
        file.write(data)
    os.rename(folder + b"/.part", folder + b"/" + name)  # noqa: PTH104


def test_a_missing_folder_is_one_sentence_and_its_images_are_judged_once_it_is_there(rig: Rig) -> None:
    wait_until(lambda: rig.health("folder:late")["status"] == "down", 15, "health says that the folder is missing")
    said = rig.health("folder:late")
    assert str(rig.folder("late")) in said["cause"]
    assert said["hint"]
    rig.folder("late").mkdir()
    place(rig, "late", b"now.png", MAPS[0].read_bytes())
    assert rig.wait_results("late", 1)[0]["image"]["name"] == "now.png"
    wait_until(lambda: rig.health("folder:late")["status"] == "ok", 15, "health says that the folder is there")


def test_an_unreadable_folder_is_one_sentence_and_its_images_are_judged_once_it_can_be_read(rig: Rig) -> None:
    wait_until(lambda: rig.health("folder:locked")["status"] == "down", 15, "health says that the folder cannot be read")
    assert str(rig.folder("locked")) in rig.health("folder:locked")["cause"]
    place(rig, "locked", b"behind.png", MAPS[1].read_bytes())
    rig.folder("locked").chmod(0o755)
    assert rig.wait_results("locked", 1)[0]["image"]["name"] == "behind.png"


def test_a_recipe_whose_model_is_not_there_holds_its_own_images_only(rig: Rig) -> None:
    place(rig, "modelless", b"waits.png", MAPS[2].read_bytes())
    place(rig, "good", b"goes.png", MAPS[3].read_bytes())
    assert rig.wait_results("good", 1)
    said = rig.health("recipe:nowhere")
    assert said["status"] == "down"
    assert "no_such_model" in said["cause"]
    assert said["hint"]
    assert not rig.results("modelless")
    assert (rig.folder("modelless") / "waits.png").exists()
    assert any("wait" in json.dumps(entry) for entry in rig.daemon.get("/api/v1/trace?name=waits.png")["entries"])


def test_an_image_of_thirty_thousand_pixels_square_is_refused_before_it_is_decoded(rig: Rig) -> None:
    place(rig, "odd", b"bomb.png", huge_png(30_000))
    found = by_name(rig, "odd", "bomb.png")
    assert (found["verdict"], found["reason"]) == ("ERROR", "too-large")


def test_an_empty_file_is_given_up_as_truncated(rig: Rig) -> None:
    place(rig, "odd", b"empty.png", b"")
    found = by_name(rig, "odd", "empty.png")
    assert (found["verdict"], found["reason"]) == ("ERROR", "truncated")


def test_a_directory_named_like_an_image_is_no_landing(rig: Rig) -> None:
    (rig.folder("odd") / "x.png").mkdir()
    place(rig, "odd", b"beside.png", MAPS[4].read_bytes())
    by_name(rig, "odd", "beside.png")
    assert not [found for found in rig.results("odd") if found["image"]["name"] == "x.png"]


def test_a_name_with_newlines_quotes_and_invalid_utf_8_is_judged_and_cannot_inject_a_log_line(rig: Rig) -> None:
    name = b'a\n{"event":"forged"}\x1b[31m\'"\xff.png'
    place(rig, "odd", name, MAPS[5].read_bytes())
    wait_until(lambda: any("forged" in found["image"]["name"] for found in rig.results("odd")), 20, "the odd name is judged")
    shown = next(found["image"]["name"] for found in rig.results("odd") if "forged" in found["image"]["name"])
    assert shown.isprintable()
    assert "\\xff" in shown
    assert not [line for line in rig.daemon.log.read_text(errors="replace").splitlines() if line.startswith('{"event":"forged"')]


def test_text_named_png_is_an_error_with_its_reason(rig: Rig) -> None:
    place(rig, "odd", b"text.png", b"this is no image\n" * 40)
    assert by_name(rig, "odd", "text.png")["verdict"] == "ERROR"


def test_nothing_was_lost_and_the_daemon_never_restarted(rig: Rig) -> None:
    assert rig.daemon.running
    sequences = sorted(int(json.loads(m.payload)["sequence"]) for m in rig.mes.messages if "/result/" in m.topic)
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_a_broker_that_refuses_the_password_is_one_sentence_and_delivers_later(
    start_daemon: Callable[..., Daemon], start_broker: Callable[..., Broker], rig: Rig, tmp_path: Path
) -> None:
    broker = start_broker(users={"edged": "right", "mes": "secret"})
    (tmp_path / "password").write_text("wrong\n")
    (tmp_path / "drop").mkdir()
    daemon = start_daemon(
        CONFIG.format(
            triton=rig.triton.grpc,
            port=broker.port,
            mqtt=f'username = "edged"\npassword_file = "{tmp_path / "password"}"',
            recipes="",
            cameras=CAMERA.format(name="cam", folder=tmp_path / "drop", recipe="maps"),
        ),
        run=False,
    )
    shutil.copytree(rig.daemon.state / "models", daemon.state / "models")
    daemon.start()
    shutil.copy(MAPS[6], tmp_path / "drop" / "kept.png")
    other = Rig(tmp_path, rig.triton, broker, broker.listen("acme/#", user="mes", password="secret"), daemon)
    wait_until(lambda: other.health("broker")["status"] in ("down", "degraded"), 20, "health says that the broker refuses us")
    cause = other.health("broker")["cause"]
    assert str(broker.port) in cause
    assert "not authori" in cause.lower() or "password" in cause.lower()
    wait_until(lambda: daemon.get("/api/v1/status")["outbox"]["undelivered"] >= 1, 20, "the verdict waits in the outbox")
    (tmp_path / "password").write_text("right\n")
    assert other.wait_results("cam", 1, 60)[0]["image"]["name"] == "kept.png"


def test_config_typos_end_the_start_with_78_and_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "edged.toml"
    file.write_text('[mqtt]\nhots = "x"\n[[camera]]\nname = "c"\nfoldr = "/tmp"\nrecipe = "r"\n[[recipe]]\nname = "r"\nmodels = ["m"]\n')
    ended = subprocess.run([EDGED, "run", "--config", file], capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 78
    assert "mqtt.hots: unknown key (did you mean 'host'?)" in ended.stderr
    assert "camera.0.foldr: unknown key (did you mean 'folder'?)" in ended.stderr
    assert ended.stderr.count(str(file)) >= 3


def by_name(rig: Rig, camera: str, name: str) -> dict[str, Any]:
    what = f"a result of {name}\n{rig.daemon.said()}"
    wait_until(lambda: any(found["image"]["name"] == name for found in rig.results(camera)), 25, what)
    return next(found for found in rig.results(camera) if found["image"]["name"] == name)


def huge_png(side: int) -> bytes:
    """A valid PNG of side x side black pixels in a few hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
