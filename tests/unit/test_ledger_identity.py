"""Identities and the small pure parts of the ledger."""

from __future__ import annotations

import hashlib
import uuid

from hypothesis import given
from hypothesis import strategies as st

from edged.ledger.identity import identity, landing_hash, name_hash, place_hash
from edged.ledger.known import MERGE_AT, KnownKeys
from edged.mounts import mount_of

VECTOR = {
    "source": "/acme/fab2/litho/INSP07/edged/a",
    "camera": "cam1",
    "path": b"lot7/R_\xff_4_5.tif",
    "size": 1_048_832,
    "mtime_ns": 1_795_966_857_412_000_001,
    "sha256": hashlib.sha256(b"pixels").hexdigest(),
    "page": 0,
    "judgement": 0,
}
PREIMAGE_PARTS = (
    *(b"/acme/fab2/litho/INSP07/edged/a", b"cam1", b"lot7/R_\xff_4_5.tif", b"1048832", b"1795966857412000001"),
    *(hashlib.sha256(b"pixels").hexdigest().encode(), b"0", b"0"),
)


def test_the_id_of_a_landing_is_the_one_that_was_published() -> None:
    assert str(identity(**VECTOR)) == "4a7cee5a-e1cf-8db1-8032-b3aac312293c"


def test_the_id_can_be_made_from_its_description_alone() -> None:
    digest = bytearray(hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in PREIMAGE_PARTS)).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    assert identity(**VECTOR).bytes == bytes(digest)


def test_the_id_is_a_uuid_of_version_8() -> None:
    assert identity(**VECTOR).version == 8
    assert identity(**VECTOR).variant == uuid.RFC_4122


def test_every_part_of_what_landed_changes_the_id() -> None:
    changes = {
        "source": "/b",
        "camera": "cam2",
        "path": b"lot7/R_\xfe_4_5.tif",
        "size": 1,
        "mtime_ns": 2,
        "sha256": "0" * 64,
        "page": 1,
        "judgement": 1,
    }
    ids = {identity(**{**VECTOR, name: value}) for name, value in changes.items()}
    assert len(ids | {identity(**VECTOR)}) == len(changes) + 1


def test_a_boundary_that_moves_between_two_fields_changes_the_id() -> None:
    assert identity(**{**VECTOR, "camera": "cam1l", "path": b"ot7"}) != identity(**{**VECTOR, "camera": "cam1", "path": b"lot7"})


def test_a_file_is_found_by_its_bare_name_whatever_its_folder() -> None:
    assert name_hash(b"lot7/a.png") == name_hash(b"a.png") != name_hash(b"b.png")


@given(st.lists(st.tuples(st.booleans(), st.integers(-(2**63), 2**63 - 1)), max_size=60))
def test_known_keys_are_those_added_and_not_dropped(steps: list[tuple[bool, int]]) -> None:
    keys, model = KnownKeys(), set()
    for add, key in steps:
        (keys.add if add else keys.drop)(key)
        (model.add if add else model.discard)(key)
    asked = sorted({key for _, key in steps})
    assert {asked[index] for index in keys.found(asked)} == model
    assert len(keys) == len(model)


def test_known_keys_stay_known_when_the_recent_ones_are_merged() -> None:
    keys = KnownKeys(range(100), 100)
    for key in range(1000, 1000 + MERGE_AT + 10):
        keys.add(key)
    keys.drop(5)
    keys.drop(1005)
    keys.add(5)
    assert keys.found([5, 1005, 1006, 99, 100]) == {0, 2, 3}
    assert len(keys) == 100 + MERGE_AT + 9


def test_the_same_place_and_another_size_are_other_keys() -> None:
    assert place_hash("cam1", b"a") == place_hash("cam1", b"a")
    assert len({landing_hash("cam1", b"a", 1, 1), landing_hash("cam1", b"a", 2, 1), landing_hash("cam2", b"a", 1, 1)}) == 3


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:50 / /mnt/plant\\040share rw - cifs //nas/share rw
31 22 0:51 / /data rw - nfs4 nas:/data rw
32 31 8:2 / /data/local rw - xfs /dev/sdb1 rw
"""


def network_type(mountinfo: str, path: str) -> str | None:
    mount = mount_of(path, mountinfo)
    return mount.kind if mount.network else None


def test_a_directory_on_a_share_is_told_from_a_local_disk_mounted_below_it() -> None:
    assert network_type(MOUNTS, "/mnt/plant share/state") == "cifs"
    assert network_type(MOUNTS, "/data/edged") == "nfs4"
    assert network_type(MOUNTS, "/data/local/edged") is None
    assert network_type(MOUNTS, "/database") is None
    assert network_type(MOUNTS, "/var/lib/edged") is None
