"""Faults that need a whole machine: power cut of all of it, disks that fail below the file system, shares served over SMB and NFS."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from rigs.faults import Fault
from rigs.guest import HOST, Guest
from rigs.processes import wait_until
from rigs.station import Station, wafer_map

WRITE = """
import asyncio, sys
from pathlib import Path
from rigs.power_writer import record
asyncio.run(record(Path(sys.argv[1]), lambda said: print("RIG", said, flush=True), first=int(sys.argv[2])))
"""
CHECK = """
import asyncio, sys
from contextlib import closing
from pathlib import Path
import sqlite3
from contract.ledger_pages import opened
async def look():
    async with opened(Path(sys.argv[1])) as ledger:
        print("RIG epoch", ledger.epoch, flush=True)
asyncio.run(look())
with closing(sqlite3.connect(Path(sys.argv[1]) / "ledger.db")) as db:
    print("RIG integrity", db.execute("PRAGMA integrity_check").fetchone()[0], flush=True)
    for (id_,) in db.execute("SELECT id FROM message WHERE kind = 'result'"):
        print("RIG there", id_, flush=True)
print("RIG checked", flush=True)
"""
POWER = """
[ -e /dev/vdc ] && (blkid /dev/vdc > /dev/null || mkfs.ext4 -q /dev/vdc)
mkdir -p /state && mount /dev/vdc /state
python3 /rig/check.py /state
python3 /rig/write.py /state $(date +%N | sed 's/^0*//')
"""


@pytest.mark.long
@pytest.mark.fault("power cut of the whole machine", matrix=(6,))
def test_a_machine_without_power_keeps_what_was_acknowledged(make_guest: Callable[..., Guest], fault: Fault) -> None:
    guest = make_guest(POWER, {"write.py": WRITE.encode(), "check.py": CHECK.encode()})
    acknowledged: set[str] = set()
    there: set[str] = set()
    cuts = 3
    for cut in range(cuts + 1):
        guest.start()
        guest.heard("checked", 900)
        there = {line.split()[1] for line in guest.lines() if line.startswith("there")}
        assert guest.heard("integrity") == ["integrity ok"]
        assert acknowledged <= there, f"{len(acknowledged - there)} acknowledged verdicts are gone after cut {cut}"
        if cut < cuts:
            guest.heard("recorded", 600, count=100)
            guest.kill()
            acknowledged |= {line.split()[1] for line in guest.lines() if line.startswith("recorded")}
    fault.row(how=f"the emulator killed, {cuts} times", images=len(acknowledged), lost=len(acknowledged - there), doubled=0)


MAPPED = """
modprobe dm-mod; modprobe dm-flakey
truncate -s 200M /under.img; device=$(losetup --find --show /under.img)
sectors=$(blockdev --getsz "$device")
table() { dmsetup suspend --noflush d; echo "0 $sectors $1" | dmsetup load d; dmsetup resume d; }
write() { # write FIRST: until there are 100 verdicts more
  python3 /rig/write.py /state "$1" > /written 2>&1 & writer=$!
  for try in $(seq 600); do [ "$(grep -c recorded /written)" -ge 100 ] && break; sleep 1; done
}
echo "0 $sectors linear $device 0" | dmsetup create d
mkfs.ext4 -q /dev/mapper/d; mkdir -p /state; mount /dev/mapper/d /state
write 1
table error; before=$(grep -c recorded /written)
sleep 10; kill -9 $writer; wait $writer 2> /dev/null
echo RIG late $(($(grep -c recorded /written) - before)); grep recorded /written
umount -l /state; sleep 1
table "linear $device 0"
mount /dev/mapper/d /state && python3 /rig/check.py /state
umount /state
table "flakey $device 0 0 600 1 drop_writes"
mount /dev/mapper/d /state
write 500000
kill -9 $writer; wait $writer 2> /dev/null
echo RIG lying; grep recorded /written
umount -l /state; sleep 1; echo 3 > /proc/sys/vm/drop_caches
table "linear $device 0"
mount /dev/mapper/d /state && python3 /rig/check.py /state
"""


def _after(lines: list[str], begin: str) -> list[str]:
    return lines[lines.index(begin) + 1 :]


def _ids(lines: list[str], word: str) -> set[str]:
    return {line.split()[1] for line in lines if line.startswith(word + " ")}


@pytest.mark.long
@pytest.mark.fault("a disk that fails below the file system", matrix=(9, 10))
def test_a_disk_that_gives_errors_loses_nothing_acknowledged_and_one_that_lies_is_outside_the_promise(
    make_guest: Callable[..., Guest], fault: Fault
) -> None:
    guest = make_guest(MAPPED, {"write.py": WRITE.encode(), "check.py": CHECK.encode()})
    guest.start()
    guest.heard("checked", 1200)
    lines = guest.lines()
    acknowledged, there = _ids(lines, "recorded"), _ids(lines, "there")
    (late,) = guest.heard("late")
    assert int(late.split()[1]) <= 16, f"{late}: verdicts acknowledged on a broken disk"  # at most what was committed just before
    assert "integrity ok" in lines
    how = "dm error table under a writing ledger, then restored"
    fault.row(how=how, images=len(acknowledged), lost=len(acknowledged - there), doubled=0)

    guest.heard("checked", 1200, count=2)
    lines = guest.lines()
    lied, there = _ids(_after(lines, "lying"), "recorded"), _ids(_after(lines, "lying"), "there")
    fault.control(how="dm-flakey drop_writes: a disk that lies is outside the promise", images=len(lied), lost=len(lied - there))


SHARES = """
mkdir -p /srv/smb /srv/nfs /mnt/smb /mnt/nfs /var/lib/edged /run/samba
chmod 777 /srv/smb /srv/nfs
cat > /etc/samba/smb.conf <<END
[global]
map to guest = Bad User
guest account = root
[share]
path = /srv/smb
guest ok = yes
read only = no
END
smbd -D; modprobe nfsd; mount -t nfsd nfsd /proc/fs/nfsd; rpcbind; exportfs -i -o rw,no_root_squash,fsid=1 127.0.0.1:/srv/nfs
rpc.mountd; rpc.nfsd 2
for try in 1 2 3 4 5 6; do mount -t cifs //127.0.0.1/share /mnt/smb -o guest,vers=3.0 && break; sleep 3; done
for try in 1 2 3 4 5 6; do mount -t nfs4 127.0.0.1:/srv/nfs /mnt/nfs -o soft,timeo=50 && break; sleep 3; done
echo RIG mounted $(stat -f -c %T /mnt/smb) $(stat -f -c %T /mnt/nfs)
python3 -m edged run --config /rig/edged.toml > /edged.log 2>&1 & daemon=$!
curl() { python3 -c "import sys,urllib.request as u; print(u.urlopen(sys.argv[1], timeout=20).read().decode())" "$1"; }
for try in $(seq 120); do curl http://127.0.0.1:9180/readyz > /dev/null 2>&1 && break; sleep 2; done
echo RIG ready; grep -oE '"mode": ?"[a-z]*"' <(curl http://127.0.0.1:9180/api/v1/status) | tr '\\n' ' ' | sed 's/^/RIG modes /'; echo
tail -n 5 /edged.log | cut -c1-300
drop() { cp "/rig/images/$1" "/srv/$2/.part-$1" && mv "/srv/$2/.part-$1" "/srv/$2/$1"; }
for n in $(seq 1 10); do drop "$n.png" smb; drop "$n.png" nfs; done
echo RIG dropped; sleep 20; tail -n 25 /edged.log | cut -c1-240; curl http://127.0.0.1:9180/api/v1/status | tail -c 3000
sleep 90; tail -n 12 /edged.log | cut -c1-300
pkill -STOP smbd; echo RIG frozen
for n in $(seq 11 20); do drop "$n.png" smb; drop "$n.png" nfs; done
sleep 40
pkill -CONT smbd; echo RIG thawed
sleep 60
tail -n 30 /edged.log | cut -c1-300
while kill -0 $daemon; do sleep 5; done
"""


@pytest.mark.long
@pytest.mark.fault("shares over SMB and NFS, the SMB server frozen", matrix=(35, 15))
def test_what_others_write_to_a_share_is_seen_and_a_frozen_server_holds_up_its_own_share_only(
    make_guest: Callable[..., Guest], start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(cameras=("smb", "nfs"))
    station.daemon.stop()  # it has put the models where Triton finds them
    text = station.daemon.config.read_text().replace("127.0.0.1:", f"{HOST}:").replace("[mqtt]", f'[mqtt]\nhost = "{HOST}"')
    for name, folder in station.folders.items():
        text = text.replace(str(folder), f"/mnt/{name}")
    text += '\n[log]\nformat = "json"\n[models]\nrepository = "/opt/edged/model_repository"\n'
    images = {f"images/{n}.png": wafer_map(n) for n in range(1, 21)}
    guest = make_guest(SHARES, {"edged.toml": text.encode(), **images})
    guest.start()
    mounted = guest.heard("mounted", 600)
    if "smb" not in mounted[0] or "nfs" not in mounted[0]:
        pytest.skip(f"the guest could not mount its shares: {guest.tail()[-400:]}")
    guest.heard("dropped", 900)

    def names(camera: str) -> set[str]:
        return {each.said["data"]["image"]["name"] for each in station.mes.results() if f"/result/{camera}/" in each.topic}

    first, rest = {f"{n}.png" for n in range(1, 11)}, {f"{n}.png" for n in range(11, 21)}
    began = time.monotonic()
    wait_until(
        lambda: first <= names("smb") and first <= names("nfs"), 400, f"what was written behind the mounts is judged; {guest.tail()}"
    )
    seen_s = time.monotonic() - began
    guest.heard("frozen", 300)
    wait_until(lambda: rest <= names("nfs"), 60, "the NFS share goes on while the SMB server is frozen")
    assert not rest & names("smb")
    guest.heard("thawed", 300)
    began = time.monotonic()
    wait_until(lambda: rest <= names("smb"), 180, f"the SMB share is back; {guest.tail()}")
    back_s = time.monotonic() - began
    assert "inotify" not in guest.heard("modes")[0] and "poll" in guest.heard("modes")[0]
    ids = {each.id for each in station.mes.results()}
    judged = {(each.topic.split("/")[-2], each.said["data"]["image"]["name"]) for each in station.mes.results()}
    how = f"cifs and nfs4 mounts, written on the server's side (all seen after {seen_s:.0f} s); smbd SIGSTOPped for 40 s"
    fault.row(how=how, images=40, lost=40 - len(judged), doubled=len(ids) - len(judged), recovered_s=round(back_s, 1))
