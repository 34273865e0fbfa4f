"""The daemon itself, when a page of its ledger is damaged under its feet."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

from contract.ledger_pages import opened, page
from rigs.daemon import ONE_CAMERA, Daemon
from rigs.processes import free_port

PAGE = 4096


async def _filled(state: Path) -> list[str]:
    async with opened(state) as ledger:
        recorded = await asyncio.gather(*(ledger.record([page(b"%d.png" % n, b"content %d" % n)]) for n in range(300)))
    return [each.ids[0] for each in recorded]


def _damage_bodies(file: Path) -> None:
    content = file.read_bytes()
    leaves = [at for at in range(PAGE, len(content), PAGE) if content[at] == 0x0D and b"specversion" in content[at : at + PAGE]]
    with file.open("r+b") as open_file:
        for at in leaves[len(leaves) // 2 :]:
            open_file.seek(at)
            open_file.write(random.Random(at).randbytes(PAGE))


def test_damage_found_while_it_runs_costs_one_restart_which_says_what_is_lost(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Broker and Triton are away: the ledger's damage is nothing to them."""
    folder = tmp_path / "drop"
    folder.mkdir()
    daemon = start_daemon(ONE_CAMERA.format(triton=free_port(), mqtt=free_port(), folder=folder), run=False)
    ids = asyncio.run(_filled(daemon.state))
    daemon.start(ready=False)
    _damage_bodies(daemon.state / "ledger.db")
    for id_ in reversed(ids):
        if not daemon.running or daemon.get(f"/api/v1/results/{id_}") is None:
            break
    assert daemon.wait() == 1
    assert (daemon.state / "ledger.suspect").exists()
    assert "is corrupt" in daemon.said()
    assert not (daemon.state / "set-aside").exists()

    daemon.start(ready=False)
    said = [json.loads(line) for line in daemon.log.read_text().splitlines() if '"ledger.set_aside"' in line]
    assert len(said) == 1
    lost = said[0]["lost"]["result"]["ranges"]
    count = sum(last - first + 1 for first, last in lost)
    assert 0 < count < len(ids)
    assert sum(daemon.get(f"/api/v1/results/{id_}") is not None for id_ in ids) == len(ids) - count
    assert (daemon.state / "set-aside").is_dir()
    time.sleep(3)  # the figures are counted each second
    checks = {check["name"]: check["status"] for check in daemon.get("/readyz", 503)["checks"]}
    assert checks["ledger"] == "ok"
    assert daemon.stop() == 0
    assert not (daemon.state / "ledger.suspect").exists()
    daemon.start(ready=False)  # and the next start has nothing to rebuild
    assert len(list((daemon.state / "set-aside").iterdir())) == 1
    assert daemon.stop() == 0
