"""A disk full of what was delivered long ago recovers alone; and what is pruned is never judged again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.ledger_pages import opened, page
from rigs.disk import Disk
from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import Station

ROWS = 5000
LEDGER = """
[ledger]
min_free_bytes = 1000000
{keys}
"""


async def a_past(state: Path, count: int) -> None:
    """A ledger with results that were all delivered, of files that lie in nobody's folder any more."""
    async with opened(state) as ledger:
        for start in range(0, count, 500):
            await asyncio.gather(
                *(ledger.record([page(b"past%d.png" % n, b"past %d" % n, camera="past")]) for n in range(start, start + 500))
            )
        rows = await ledger.outbox.due("backlog", count, 0, 2**62)
        await ledger.outbox.delivered([row.row for row in rows])


def past(station: Station) -> int:
    return sum(row.image[0] == "past" for row in station.rows())


@pytest.mark.parametrize("keys", ["retain_rows = 100", pytest.param('when_full = "forget-delivered"', marks=pytest.mark.long)])
@pytest.mark.fault("disk full of delivered rows", matrix=(12,))
def test_a_disk_full_of_delivered_rows_recovers_alone(
    keys: str, make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(40)
    station = start_station(camera='after = "move"', toml=LEDGER.format(keys=keys), state=disk.folder / "state")
    station.daemon.stop()
    asyncio.run(a_past(station.daemon.state, ROWS))
    assert (station.daemon.state / "ballast").exists()
    disk.fill()
    taken = disk.free_bytes()
    station.drop(20)
    station.over()
    station.daemon.start(wait=False)
    # The oracle could not even read the ledger on the full disk: SQLite's readers make a file too.
    wait_until(lambda: len({arrival.id for arrival in station.mes.results()}) == 20, 90, "images are judged and delivered")
    wait_until((station.daemon.state / "ballast").exists, 10, "the ballast is there again")
    assert disk.others.joinpath("large").exists() and taken < 100_000, "nobody else gave room"
    assert past(station) >= (99 if "rows" in keys else 1), "no more was forgotten than had to be"
    new = [row for row in station.rows() if row.image[0] != "past"]
    recovered_s = round(min(row.at for row in new) - station._over, 2)
    fault.row(
        how=f"full, {ROWS} delivered rows, {keys}",
        images=20,
        lost=20 - len({row.image for row in new}),
        doubled=len(new) - 20,
        recovered_s=recovered_s,
        note=f"{past(station)} old rows left",
    )


@pytest.mark.long
@pytest.mark.fault("disk full, nothing may be forgotten", matrix=(11,))
def test_with_block_the_tools_folder_waits_and_no_delivered_result_is_forgotten(
    make_disk: Callable[..., Disk], start_station: Callable[..., Station], fault: Fault
) -> None:
    disk = make_disk(40)
    station = start_station(
        camera='after = "move"', toml=LEDGER.format(keys='when_full = "block"'), state=disk.folder / "state", daemon=False
    )
    asyncio.run(a_past(station.daemon.state, 500))
    disk.fill()
    station.drop(20)
    station.daemon.start(wait=False)
    time.sleep(8)
    assert station.daemon.running and past(station) == len(station.rows()) == 500
    assert len(list(station.folders["cam1"].glob("*.png"))) == 20, "images wait in the tool's folder"
    station.over()
    disk.empty()
    wait_until(lambda: len({arrival.id for arrival in station.mes.results()}) == 20, 40, "the MES has them")
    new = [row for row in station.rows() if row.image[0] != "past"]
    assert past(station) == 500
    recovered_s = round(min(row.at for row in new) - station._over, 2)
    fault.row(how="when_full = block", images=20, lost=20 - len({r.image for r in new}), doubled=len(new) - 20, recovered_s=recovered_s)


@pytest.mark.fault("results pruned, files kept", matrix=())
def test_a_file_whose_result_was_pruned_is_never_judged_again_while_it_lies_in_its_folder(
    start_station: Callable[..., Station], fault: Fault
) -> None:
    station = start_station(camera="reconcile_s = 1.0", toml="[ledger]\nretain_rows = 5")
    station.drop(30)
    station.settle()
    ids = {row.id for row in station.rows()}
    station.daemon.stop()
    station.daemon.start()
    wait_until(lambda: len(station.rows()) <= 5, 30, "results are pruned")
    (station.folders["cam1"] / "w000001.png").touch()  # the reconcile pass looks at every file, and hashes this one
    time.sleep(4)
    assert {row.id for row in station.rows()} <= ids, "a pruned file was judged again"
    heard = {arrival.id for arrival in station.mes.results()}
    for name in ("w000001.png", "w000002.png"):
        assert any(entry.get("verdict") for entry in station.daemon.get(f"/api/v1/trace?name={name}")["entries"])
    fault.row(how="retain_rows = 5, 30 files", images=30, lost=30 - len(heard & ids), doubled=len(heard - ids))
