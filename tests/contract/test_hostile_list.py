"""The list of hostile inputs, number by number, each at the place that meets it first. Through the whole daemon: tests/faults.

For 53 and 54 there is nothing yet that opens an archive; the tests say what becomes of one that lies among the packages.
"""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import shutil
import socket
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from contract.decoder_images import encoded, landing, wafer, write
from contract.test_decoders_hostile import decoders, outcome
from edged.config import IdentityKind, IdentitySource
from edged.errors import ModelMismatch
from edged.inference.package_files import onnx_wrapper, triton_config
from edged.inference.repository import Repository
from edged.intake.completeness import Grade, check
from edged.intake.identity import explain
from edged.intake.known import KnownNames, Roll
from edged.intake.looking import Listing, look
from edged.intake.sidecar import Unreadable, parse_sidecar, read_sidecar
from edged.nouns import display_name
from edged.plant.schema import ack_message
from rigs.hostile import FILES, NAMES, SIDECARS, HostileFile, good
from rigs.packages import manifest_of

SLOW_S = 8.0


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[HostileFile, tuple[str, float]]]:
    """What the decoder processes say of each file, and how long it took them. One process: had one file ended it, `deaths` would tell."""

    async def all_of_them(folder: Path) -> dict[HostileFile, tuple[str, float]]:
        found = {}
        async with decoders() as running:
            await outcome(running, landing(write(folder / "good.png", wafer(48, 64))))
            (pid,) = running.pids
            for file in FILES:
                path = folder / str(file)
                path.write_bytes(file.make())
                began = time.monotonic()
                found[file] = await outcome(running, landing(path)), time.monotonic() - began
                path.unlink()
            assert running.pids == (pid,) and running.snapshot().deaths == 0
        return found

    with tempfile.TemporaryDirectory() as folder:
        yield asyncio.run(all_of_them(Path(folder)))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_hostile_file_gets_its_reason_in_short_time(file: HostileFile, outcomes: dict[HostileFile, tuple[str, float]]) -> None:
    said, took_s = outcomes[file]
    assert said == file.reason and took_s < SLOW_S


@pytest.mark.parametrize("file", [file for file in FILES if file.number in (5, 14, 20)], ids=str)
def test_what_is_half_written_never_counts_as_whole(file: HostileFile) -> None:
    with tempfile.TemporaryFile() as there:
        there.write(file.make())
        there.flush()
        grade = check(there.fileno(), os.fstat(there.fileno()).st_size).grade
    assert grade is (Grade.COMPLETE if "garbled" in file.name else Grade.UNKNOWN if "pgm" in file.name else Grade.INCOMPLETE)


async def ask(path: Path) -> str:
    async with decoders(timeout_s=5) as running:
        return await outcome(running, landing(path))


def told(path: Path) -> tuple[bool, str]:
    (sight,) = look(os.fsencode(path.parent), None, [(os.fsencode(path.name), None)], False, lambda: None)
    return sight.regular, sight.what


def is_no_file(path: Path, what: str) -> None:
    assert told(path) == (False, what)
    assert asyncio.run(ask(path)) == "ChangedUnderway"


def link(folder: Path) -> None:
    (folder / "a.png").symlink_to(write(folder / "secret.png", wafer(48, 64)))
    is_no_file(folder / "a.png", "symbolic link")


def fifo(folder: Path) -> None:
    os.mkfifo(folder / "a.png")
    is_no_file(folder / "a.png", "FIFO")


def directory(folder: Path) -> None:
    (folder / "a.png").mkdir()
    is_no_file(folder / "a.png", "directory")


def device(_folder: Path) -> None:
    is_no_file(Path("/dev/zero"), "device")


def unix_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "a.png"))
        is_no_file(folder / "a.png", "socket")


def hard_link(folder: Path) -> None:
    os.link(write(folder / "secret.png", wafer(48, 64)), folder / "a.png")
    (sight,) = look(os.fsencode(folder), None, [(b"a.png", None)], False, lambda: None)
    assert sight.regular and sight.links == 2  # it waits; see the tests of landings


def named(number: int) -> Callable[[Path], None]:
    def of_the_number(folder: Path) -> None:
        names = [name for each, name in NAMES if each == number]
        content = encoded(".png", wafer(48, 64))

        async def judge() -> list[str]:
            async with decoders() as running:
                return [await outcome(running, landing(folder / os.fsdecode(name))) for name in names]

        for name in names:
            (folder / os.fsdecode(name)).write_bytes(content)
        assert sorted(os.fsencode(path.name) for path in folder.iterdir()) == sorted(names)
        assert asyncio.run(judge()) == ["judged"] * len(names)
        shown = [display_name(name) for name in names]
        assert all(text.isprintable() for text in shown) and len(set(shown)) == len(shown)

    return of_the_number


def growing(folder: Path) -> None:
    path = write(folder / "a.png", wafer(48, 64))
    before = landing(path)
    with path.open("ab") as out:
        out.write(b"more")

    async def judge() -> str:
        async with decoders() as running:
            return await outcome(running, before)

    assert asyncio.run(judge()) == "ChangedUnderway"


def sparse(folder: Path) -> None:
    with (folder / "a.png").open("wb") as out:
        out.write(good(".png"))
        out.truncate(1 << 40)
    began = time.monotonic()
    assert asyncio.run(ask(folder / "a.png")) == "too-large" and time.monotonic() - began < SLOW_S
    with (folder / "a.png").open("rb") as there:
        assert check(there.fileno(), 1 << 40).grade is Grade.UNKNOWN


def replaced(folder: Path) -> None:
    secret, path = write(folder / "secret.png", wafer(48, 64, 2)), write(folder / "a.png", wafer(48, 64))
    before = landing(path)
    path.unlink()
    path.symlink_to(secret)

    async def judge() -> str:
        async with decoders() as running:
            return await outcome(running, before)

    assert asyncio.run(judge()) == "ChangedUnderway"


def burst(folder: Path) -> None:
    """Here 20,000 for half a million; 500,000 old files are a fault of their own."""
    for number in range(20_000):
        os.close(os.open(folder / f"{number}.png", os.O_CREAT | os.O_WRONLY))
    roll, seen, last = Roll(KnownNames()), 0, False
    began = time.process_time()
    listing = Listing(os.fsencode(folder), None, b"", roll, False)
    while not last:
        names, fresh, _, last = listing.piece(4096)
        assert len(names) <= 4096
        seen += len(fresh)
    listing.close()
    assert seen == 20_000 and time.process_time() - began < 5


def old_and_future(folder: Path) -> None:
    async def judge() -> list[str]:
        found = []
        async with decoders() as running:
            for moment in (0, -315_619_200, 4_102_444_800, 2**31):
                os.utime(write(folder / "a.png", wafer(48, 64)), (moment, moment))
                found.append(await outcome(running, landing(folder / "a.png")))
        return found

    assert asyncio.run(judge()) == ["judged"] * 4


def locked(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user for a moment; the fault on the whole station runs as any")
    place = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        place.chmod(0o755)
        path = write(place / "a.png", wafer(48, 64))
        path.chmod(0)
        stamp = (path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino)
        os.seteuid(65534)
        try:
            (sight,) = look(os.fsencode(place), None, [(b"a.png", stamp)], False, lambda: None)
        finally:
            os.seteuid(0)
        assert sight.open_error == errno.EACCES and sight.structure is None
    finally:
        shutil.rmtree(place)


def loop(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "again").symlink_to("..")
    (folder / "self").symlink_to(folder)
    roll = Roll(KnownNames())
    listing = Listing(os.fsencode(folder), None, b"", roll, True)
    _, _, below, _ = listing.piece(100)
    listing.close()
    assert below == ["sub"]
    inner = Listing(os.fsencode(folder), None, b"sub", roll, True)
    assert inner.piece(100)[2] == []
    inner.close()
    with pytest.raises(NotADirectoryError):
        Listing(os.fsencode(folder), None, b"self", roll, True)


def sidecars(folder: Path) -> None:
    for name, make in SIDECARS:
        began = time.process_time()
        source = IdentitySource(kind=IdentityKind.SIDECAR_JSON)
        identity = explain([source], b"a.png", {IdentityKind.SIDECAR_JSON: make()}).identity
        assert identity.material.lot_id is None and identity.material.wafer_id is None, name
        assert time.process_time() - began < 2, name
    xml = {
        "a billion laughs": b'<!DOCTYPE a [<!ENTITY b "x">]><a>&b;</a>',
        "a file": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "a million deep": b"<a>" * 300_000,
        "a long name over many": b"<r><" + b"n" * 300_000 + b">" + b"<a>1</a>" * 60_000,
        "many attributes": b"<a " + b" ".join(b'b%d="1"' % n for n in range(60_000)) + b"/>",
    }
    for name, data in xml.items():
        began = time.process_time()
        with pytest.raises(Unreadable):
            parse_sidecar(IdentityKind.SIDECAR_XML, data)
        assert time.process_time() - began < 2, name
    with (folder / "a.json").open("wb") as out:
        out.truncate(1 << 30)
    data = read_sidecar(folder, b"a.png", IdentityKind.SIDECAR_JSON)
    assert data is not None and len(data) < 2 << 20
    with pytest.raises(Unreadable, match="larger than"):
        parse_sidecar(IdentityKind.SIDECAR_JSON, data)
    (folder / "b.json").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic links"):
        read_sidecar(folder, b"b.png", IdentityKind.SIDECAR_JSON)
    os.mkfifo(folder / "c.json")
    assert read_sidecar(folder, b"c.png", IdentityKind.SIDECAR_JSON) is None


def commands(_folder: Path) -> None:
    """The only thing that edged listens to. That commands have no effect is shown on a whole station."""
    for body in (
        b"",
        b"[" * 100_000,
        b'{"up_to_sequence": 18446744073709551616}',
        json.dumps(dict.fromkeys(map(str, range(100_000)), 1)).encode(),
    ):
        with pytest.raises(ValidationError):
            ack_message.validate_json(body)
    for huge in (2**63, 2**70, -1, 1e300):
        with pytest.raises(ValidationError):
            ack_message.validate_json(json.dumps({"source": "s", "epoch": "e", "kind": "result", "up_to_sequence": huge}))


class Packages:
    """A seed with one package, as somebody made it, and what the live repository takes of it."""

    def __init__(self, folder: Path) -> None:
        self.seed, self.state = folder / "seed", folder / "state"
        self.package = self.seed / "m__1"
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text("secret")

    def write(self, files: dict[str, bytes], **changes: Any) -> None:
        shutil.rmtree(self.package, ignore_errors=True)
        for name, content in files.items():
            path = self.package / name
            if name.isprintable() and path.resolve().is_relative_to(self.package) and path != self.package:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self.package.mkdir(parents=True, exist_ok=True)
        (self.package / "manifest.json").write_text(json.dumps(manifest_of("m", files, model="1/model.onnx") | changes))

    def problem(self, allow_python: bool = False) -> str:
        """Why the package is refused; empty when it is live."""
        repository = Repository(self.state, self.seed, allow_python=allow_python)
        repository.refresh()
        try:
            repository.package("m")
        except ModelMismatch as error:
            refused = error
        else:
            return ""
        assert "\n" not in str(refused) and not (self.state / "models" / "m__1").exists()
        return refused.cause


MODEL = {"1/model.onnx": b"\x08\x08"}


def archives(folder: Path) -> None:
    packages = Packages(folder)
    packages.seed.mkdir()
    with zipfile.ZipFile(packages.seed / "m__1.zip", "w") as made:
        for name in ("../escaped", "/escaped", "m__1/manifest.json"):
            made.writestr(name, "x")
        made.writestr("bomb", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    with tarfile.open(packages.seed / "m__1.tar", "w") as made_tar:
        for name, kind in (("../escaped", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), ("device", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode = kind, "/etc/passwd", 0o4755
            made_tar.addfile(entry, io.BytesIO(b""))
    assert "not in the model repository" in packages.problem()
    assert list((packages.state / "models").iterdir()) == [] and not list(folder.rglob("escaped"))


def code(folder: Path) -> None:
    packages = Packages(folder)
    for name in (
        "1/libtriton_python.so",
        "1/model.pkl",
        "1/model.pt",
        "1/model.graphdef",
        "run.sh",
        "1/x.PY",
        "1/model.so.1",
        "1/__init__.pyc",
    ):
        packages.write(MODEL | {name: b"\x7fELF"})
        assert "Python code of its own" in packages.problem() or "has no place in a package" in packages.problem(), name
    packages.write(MODEL | {"1/model.py": b"import os"})
    assert "Python code of its own (1/model.py)" in packages.problem() and packages.problem(allow_python=True) == ""
    packages.write(MODEL)
    (packages.package / "1" / "libtriton_python.so").write_bytes(b"\x7fELF")  # it lies there and is not listed
    assert packages.problem() == "" and not list(packages.state.rglob("*.so"))


def links_and_paths(folder: Path) -> None:
    """53 and 54, as far as a directory can: what an archive would bring."""
    packages = Packages(folder)
    for name in (
        "../outside/secret.txt",
        "/etc/hostname",
        "a/../../x.txt",
        "a\\..\\x.txt",
        "./x.txt",
        "a//x.txt",
        "x\0.txt",
        "x\n.txt",
        "",
    ):
        packages.write(MODEL | {name: b"secret"})
        assert "files lists" in packages.problem(), name
    packages.write(MODEL | {"notes/secret.txt": b"secret"})
    shutil.rmtree(packages.package / "notes")
    (packages.package / "notes").symlink_to(packages.outside)
    assert "notes/secret.txt is not a regular file" in packages.problem()
    for make in (lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, lambda path: path.mkdir()):
        packages.write(MODEL | {"card.md": b"x"})
        (packages.package / "card.md").unlink()
        make(packages.package / "card.md")
        assert "card.md is not a regular file" in packages.problem()
        packages.write(MODEL)
        (packages.package / "manifest.json").unlink()
        make(packages.package / "manifest.json")
        assert "manifest.json cannot be read" in packages.problem()
    packages.write(MODEL | {f"{n}.txt": b"" for n in range(10_001)})
    assert "files" in packages.problem()


def config(folder: Path) -> None:
    packages = Packages(folder)
    foreign = 'backend: "../../evil"\nparameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/x.tar.gz" } }\n'
    packages.write(MODEL)
    (packages.package / "config.pbtxt").write_text(foreign)
    assert packages.problem() == ""
    live = packages.state / "models" / "m__1"
    assert "evil" not in (live / "config.pbtxt").read_text() and (live / "1" / "model.py").read_text() == onnx_wrapper()
    shutil.rmtree(live)
    packages.write(MODEL | {"config.pbtxt": foreign.encode()})
    assert "'config.pbtxt', which has no place in a package" in packages.problem()
    for name in ('a" backend: "evil', "a\\", "a\nb", ""):
        with pytest.raises(ValueError, match="cannot be a name"):
            triton_config(json.loads((packages.package / "manifest.json").read_text()), name)


def protobuf(*fields: tuple[int, bytes]) -> bytes:
    def varint(value: int) -> bytes:
        return bytes((value,)) if value < 128 else bytes((value & 127 | 128,)) + varint(value >> 7)

    return b"".join(varint(number << 3 | 2) + varint(len(body)) + body for number, body in fields)


def outside_weights(*places: Iterable[int], location: str) -> dict[str, bytes]:
    """A model for each way from the model to a tensor, whose values lie at `location`."""
    tensor = protobuf((8, b"w"), (13, protobuf((1, b"location"), (2, location.encode()))))
    found = {}
    for way in places:
        body = tensor
        for number in reversed(tuple(way)):
            body = protobuf((number, body))
        found[str(way)] = b"\x08\x08" + body
    return found


WAYS = (
    (7, 5),
    (7, 15, 1),
    (7, 1, 5, 5),
    (7, 1, 5, 10),
    (7, 1, 5, 6, 5),
    (7, 1, 5, 11, 1, 5, 5),
    (25, 7, 5, 5),
    (20, 1, 5),
    (7, 1, 5, 22, 2),
)


def external(folder: Path) -> None:
    packages = Packages(folder)
    for location in ("../../outside/secret.txt", "/etc/passwd", "weights.bin", "", "../model.data"):
        for way, model in outside_weights(*WAYS, location=location).items():
            packages.write({"1/model.onnx": model})
            assert "reads its weights from" in packages.problem(), (location, way)
    packages.write({"1/model.onnx": outside_weights((7, 5), location="weights.bin")["(7, 5)"], "1/weights.bin": b"w"})
    assert packages.problem() == ""
    shutil.rmtree(packages.state)
    for broken in (b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b", b"\x3a\x02\x2a\x7f"):
        packages.write({"1/model.onnx": broken})
        assert "is no ONNX model" in packages.problem(), broken
    deep = b""
    for _ in range(3000):
        deep = protobuf((6, protobuf((1, protobuf((5, deep))))))
    packages.write({"1/model.onnx": protobuf((7, protobuf((1, protobuf((5, deep))))))})
    assert "nests deeper" in packages.problem()


def labels(folder: Path) -> None:
    packages = Packages(folder)
    outputs = [{"name": "scores", "dtype": "FP32", "dims": [2], "role": "scores"}]
    for name in ("\x1b[31mred", "a\nb", "\u202eRTL", "n" * 101, "", "\0"):
        packages.write(MODEL, classes=[name, "none"], outputs=outputs)
        assert "classes" in packages.problem(), name
    packages.write(MODEL, classes=[str(n) for n in range(10_001)], outputs=outputs)
    assert "classes" in packages.problem()
    packages.write(MODEL | {"labels.txt": b""})
    with (packages.package / "labels.txt").open("wb") as out:
        out.truncate(1 << 30)
    began = time.process_time()
    assert "labels.txt is larger than" in packages.problem() and time.process_time() - began < 2
    for body in (b"[" * 1_000_000, b'{"name": ' * 100_000, b"\xff\xfe", b"NaN", b"[]", b'"x"', bytes(5 << 20)):
        packages.write(MODEL)
        (packages.package / "manifest.json").write_bytes(body)
        assert "manifest.json" in packages.problem()


CASES: dict[int, tuple[str, Callable[[Path], None]]] = {
    30: ("a symbolic link to a secret file", link),
    31: ("a FIFO named like an image", fifo),
    32: ("a directory named like an image", directory),
    33: ("a character device", device),
    34: ("a unix socket", unix_socket),
    35: ("a hard link to a foreign file", hard_link),
    36: ("a name with a newline and a forged log line", named(36)),
    37: ("a name with terminal escapes", named(37)),
    38: ("a name that is no UTF-8", named(38)),
    39: ("names that look alike or run from right to left", named(39)),
    40: ("a name of 255 bytes, with a dash, a command, a format", named(40)),
    41: ("a name with wildcards, quotes, markup", named(41)),
    42: ("a file that grows while it is read", growing),
    43: ("a sparse file of a terabyte", sparse),
    44: ("a file that becomes a link before it is opened", replaced),
    45: ("very many tiny files at once", burst),
    46: ("a time of change long ago or far ahead", old_and_future),
    47: ("a file nobody may read", locked),
    48: ("a folder that loops", loop),
    51: ("sidecars of all bad kinds", sidecars),
    52: ("what comes in over MQTT", commands),
    53: ("a zip or tar among the packages", archives),
    54: ("links, devices and paths that leave the package", links_and_paths),
    55: ("code in a package", code),
    56: ("a configuration of the package's own", config),
    57: ("weights outside the model", external),
    58: ("labels without end or with control characters", labels),
}


@pytest.mark.parametrize("number", CASES, ids=lambda number: f"{number:02} {CASES[number][0]}")
def test_a_hostile_input_is_met(number: int, tmp_path: Path) -> None:
    CASES[number][1](tmp_path)


def test_the_list_is_whole() -> None:
    assert sorted({file.number for file in FILES} | CASES.keys()) == list(range(1, 59))


@settings(max_examples=150)
@given(st.binary(max_size=300), st.sampled_from(sorted(outside_weights(*WAYS, location="../x").values())), st.integers(0, 60))
def test_no_bytes_make_the_reader_of_onnx_files_fail_in_another_way(noise: bytes, model: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        packages = Packages(Path(folder))
        packages.write({"1/model.onnx": model[:at] + noise + model[at:]})
        packages.problem()  # raises nothing but what it catches


def test_a_model_made_by_hand_is_laid_out_as_onnx_is(tmp_path: Path) -> None:
    """`struct` of a real model: the shipped ones are walked, and hold all their weights themselves."""
    from edged.inference.onnx_files import external_files

    models = list((Path(__file__).parents[2] / "model_repository").glob("*/1/model.onnx"))
    assert len(models) >= 2 and all(external_files(path) == frozenset() for path in models)
    head = models[0].read_bytes()[:2]
    assert head[0] == 0x08 and struct.unpack("B", head[1:])[0] >= 7  # ir_version, as in the models made here
