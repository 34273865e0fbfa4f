"""Images judged again by the real station: asked over HTTP, killed under way, their file gone, one at a time, out of quarantine."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rigs.faults import Fault
from rigs.processes import wait_until
from rigs.station import BASE, Station, wafer_map

TOKEN = "operator-token-0123456789ab"


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"operator a.meier {TOKEN}\nviewer wall viewer-token-0123456789ab\n")
    return f'[http]\ntokens_file = "{path}"\n'


def post(station: Station, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(station.daemon.url + path, json.dumps(body or {}).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def result(station: Station, id_: str, timeout_s: float = 20) -> dict[str, Any]:
    """The message, once it is recorded."""
    wait_until(lambda: station.daemon.get(f"/api/v1/results/{id_}") is not None, timeout_s, f"result {id_}")
    found: dict[str, Any] = station.daemon.get(f"/api/v1/results/{id_}")
    return found


def first_ids(station: Station) -> dict[str, str]:
    """Name -> id of its first judgement."""
    return {row.image[1].decode(): row.id for row in station.rows() if row.judgement == 0 and row.page == 0}


def trace(station: Station, name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = station.daemon.get(f"/api/v1/trace?name={name}")["entries"]
    return entries


def arm(station: Station, failpoints: str) -> None:
    """The daemon starts anew with these."""
    station.daemon.stop()
    station.daemon.variables = {"EDGED_FAILPOINTS": failpoints} if failpoints else {}
    station.daemon.start()


def ask_and_die(station: Station, id_: str) -> dict[str, Any] | None:
    """What was answered, if the daemon lived to answer; a machine that is slow may say once that it is away."""
    for _ in range(5):
        try:
            status, answer = post(station, f"/api/v1/results/{id_}/rejudge")
        except (OSError, HTTPException, ValueError):  # it died before, or within, its answer
            return None
        if status != 503:
            break
        time.sleep(1)
    assert (status, answer.get("judgement"), answer.get("supersedes")) == (202, 1, id_), answer
    return answer


ASKED, RECORDED = "rejudging.asked", "image.recorded"


@pytest.mark.parametrize(
    "points",
    [
        pytest.param((ASKED, RECORDED), id="short"),
        pytest.param((ASKED, "image.taken", "image.decoded", "image.judged", RECORDED), id="every", marks=pytest.mark.long),
    ],
)
@pytest.mark.fault("killed while an image is judged again", matrix=(4,))
def test_a_rejudgement_under_way_at_a_kill_is_resumed_and_recorded_once(
    start_station: Callable[..., Station], fault: Fault, tokens: str, points: Sequence[str]
) -> None:
    station = start_station(cameras=("cam1",), camera='after = "move"', toml=tokens)
    station.drop(len(points))
    station.settle(60)
    ids = first_ids(station)
    moved = [entry["to"] for name in ids for entry in trace(station, name) if entry["what"] == "moved"]
    armed = [f"{point}[{name}]=kill" for name, point in zip(sorted(ids), points, strict=True)]
    arm(station, armed[0])
    recovered_s = 0.0  # the longest, once the daemon is ready again
    for name, point, following in zip(sorted(ids), points, [*armed[1:], ""], strict=True):
        ask_and_die(station, ids[name])
        wait_until(lambda: not station.daemon.running, 20, f"it is killed at {point}")
        arm(station, following)
        began = time.monotonic()
        wait_until(lambda name=name: len(judged(station, name)) == 2, 20, f"{name} is judged again after a kill at {point}")  # type: ignore[misc]
        recovered_s = max(recovered_s, round(time.monotonic() - began, 2))
    station.settle(30)
    assert all(judged(station, name) == [0, 1] for name in ids), "each was asked for once and judged again once"
    again = {row.id for row in station.rows() if row.judgement}
    wait_until(lambda: again <= {arrival.id for arrival in station.mes.results()}, 20, "the MES has the new results")
    told = {arrival.id: arrival.said["data"] for arrival in station.mes.results() if arrival.id in again}
    assert {data["supersedes"] for data in told.values()} == set(ids.values())
    assert len(moved) == len(points), moved
    assert all(Path(path).exists() for path in moved), "no file is moved or deleted again"
    fault.row(how=f"{len(points)} kills at named steps, one for each image", tally=station.tally(), recovered_s=recovered_s)


def judged(station: Station, name: str) -> list[int]:
    """The judgements that the ledger has of an image."""
    return sorted(row.judgement for row in station.rows() if row.image[1].decode() == name)


@pytest.mark.fault("an image to be judged again is gone or changed", matrix=())
def test_a_file_that_is_gone_or_another_by_now_is_refused_as_image_gone(
    start_station: Callable[..., Station], fault: Fault, tokens: str
) -> None:
    station = start_station(cameras=("cam1",), toml=tokens)
    gone, changed, there = station.drop(3)
    station.settle(60)
    ids = first_ids(station)
    gone.unlink()
    content = bytearray(changed.read_bytes())
    content[-20] ^= 1
    facts = changed.stat()
    changed.write_bytes(content)
    os.utime(changed, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    for path in (gone, changed):
        status, answer = post(station, f"/api/v1/results/{ids[path.name]}/rejudge")
        assert (status, answer["type"]) == (409, "urn:edged:problem:image-gone"), answer
        assert path.name in answer["detail"]
        assert judged(station, path.name) == [0]
    said = station.daemon.run("rejudge", there.name, "--json", "--token-file", token_file(station))
    answer = json.loads(said.stdout)
    assert (answer["judgement"], answer["supersedes"], answer["state"]) == (1, ids[there.name], "recorded")
    data = result(station, answer["id"])["data"]
    assert (data["judgement"], data["supersedes"], data["image"]["name"]) == (1, ids[there.name], there.name)
    assert data["verdict"] == result(station, ids[there.name])["data"]["verdict"]
    (audit,) = station.daemon.get("/api/v1/audit")["changes"]
    assert (audit["who"], audit["what"], audit["after"]["id"]) == ("a.meier", "results.rejudge", answer["id"])
    assert station.mes.wait_for_event("audit")["target"] == ids[there.name]
    fault.row(how="deleted; written over under its time", tally=station.tally())


def token_file(station: Station) -> str:
    path = station.home / "token"
    path.write_text(TOKEN)
    return str(path)


@pytest.mark.fault("asked twice to judge an image again", matrix=())
def test_one_rejudgement_is_open_for_an_image_and_waits_for_triton_across_a_restart(
    start_station: Callable[..., Station], fault: Fault, tokens: str
) -> None:
    station = start_station(cameras=("cam1",), toml=tokens)
    (path,) = station.drop(1)
    station.settle(60)
    (id_,) = first_ids(station).values()
    station.triton.kill()
    station.wait_health("triton", "down")
    assert post(station, f"/api/v1/results/{id_}/rejudge", {"recipe": "nonsense"})[0] == 400
    assert post(station, "/api/v1/results/00000000-0000-8000-8000-000000000000/rejudge")[0] == 404
    status, first = post(station, f"/api/v1/results/{id_}/rejudge")
    again, second = post(station, f"/api/v1/results/{id_}/rejudge")
    assert (status, again, second["type"]) == (202, 409, "urn:edged:problem:rejudgement-open"), (first, second)
    station.daemon.kill()
    station.over()
    station.triton.start()
    station.daemon.start()
    assert result(station, first["id"])["data"]["judgement"] == 1
    assert judged(station, path.name) == [0, 1]
    status, third = post(station, f"/api/v1/results/{id_}/rejudge")
    assert (status, third["judgement"], third["supersedes"]) == (202, 2, first["id"])
    assert result(station, third["id"])["data"]["supersedes"] == first["id"]
    wait_until(lambda: third["id"] in {arrival.id for arrival in station.mes.results()}, 20, "the MES has the newest")
    fault.row(how="Triton away meanwhile, daemon killed", tally=station.tally())


@pytest.mark.fault("an image is released from quarantine", matrix=())
def test_a_rejected_image_is_listed_and_its_kept_copy_can_be_judged_again(
    start_station: Callable[..., Station], fault: Fault, tokens: str
) -> None:
    limit = "[decode]\nmax_pixels = 2000\n"
    station = start_station(cameras=("cam1",), camera='after = "delete"', toml=tokens + limit)
    large = cv2.imencode(".png", cv2.resize(cv2.imdecode(np.frombuffer(wafer_map(1), np.uint8), 0), (52, 52), interpolation=0))[1].tobytes()
    station.put("cam1", "large.png", large)
    station.drop(1)
    station.settle(60)
    wait_until(lambda: not any(station.folders["cam1"].glob("*.png")), 20, "after = delete is done")
    (row,) = station.daemon.get("/api/v1/quarantine")["images"]
    assert (row["name"], row["kept"], row["released"], row["bytes"]) == ("large.png", True, False, len(large))
    status, answer = post(station, f"/api/v1/quarantine/{row['id']}/release")
    assert (status, answer["supersedes"]) == (202, row["id"]), answer
    first = result(station, answer["id"])["data"]
    assert (first["verdict"], first["judgement"]) == ("ERROR", 1), "the limit is what it was"
    (listed,) = station.daemon.get("/api/v1/quarantine")["images"]
    assert (listed["id"], listed["kept"], listed["reason"]) == (answer["id"], True, row["reason"]), "one copy serves every judgement"
    shown = station.daemon.run("quarantine", "list").stdout
    assert "large.png" in shown
    assert "kept" in shown

    station.daemon.stop()
    station.daemon.config.write_text(station.daemon.config.read_text().replace(limit, ""))
    station.daemon.start()
    said = station.daemon.run("quarantine", "release", row["id"], "--json", "--token-file", token_file(station))
    answer = json.loads(said.stdout)
    data = result(station, answer["id"])["data"]
    assert (data["judgement"], data["supersedes"], data["reason"]) == (2, listed["id"], answer["reason"])
    assert data["verdict"] in ("PASS", "FAIL", "REVIEW"), data["reason"]
    assert station.daemon.get("/api/v1/quarantine")["images"] == []
    for copy in (station.daemon.state / "quarantine").iterdir():
        copy.unlink()
    status, refused = post(station, f"/api/v1/quarantine/{row['id']}/release")
    assert (status, refused["type"]) == (409, "urn:edged:problem:image-gone")
    wait_until(lambda: answer["id"] in {each.id for each in station.mes.results()}, 20, "the MES has it")
    fault.row(how="larger than a limit that is raised; its file deleted", tally=station.tally())


@pytest.mark.fault("a message is parked, then sent once more", matrix=(20,))
def test_a_parked_message_is_told_with_its_reason_and_goes_out_when_it_is_retried(
    start_station: Callable[..., Station], fault: Fault, tokens: str
) -> None:
    refusing = f"topic readwrite acme/#\ntopic deny {BASE}/result/cam2/#\n"
    station = start_station(cameras=("cam1", "cam2"), toml=tokens, broker={"acl": refusing, "extra": "max_queued_messages 0"})
    station.drop(4)
    wait_until(lambda: station.daemon.get("/api/v1/outbox")["rows"]["parked"] == 2, 30, "two messages are parked")
    parked = station.daemon.get("/api/v1/outbox")["parked"]
    assert all("cam2" in row["topic"] and "uthori" in row["reason"] for row in parked), parked
    assert "uthori" in station.daemon.run("outbox", check=False).stdout
    (station.broker.home / "acl").write_text("topic readwrite acme/#\n")
    os.kill(station.broker.pid, signal.SIGHUP)
    station.over()
    said = station.daemon.run("outbox", "retry", "--token-file", token_file(station))
    assert said.stdout.startswith("2 parked")
    recovered_s = station.settle(30)
    assert station.daemon.get("/api/v1/outbox")["parked"] == []
    assert station.daemon.get("/api/v1/audit")["changes"][0]["before"] == {"parked": 2}

    (id_, *_) = first_ids(station).values()
    before = len(station.mes.results())
    station.daemon.run("republish", id_, "--token-file", token_file(station))
    wait_until(lambda: len(station.mes.results()) > before, 20, "the MES hears it once more")
    again = station.mes.results()[-1]
    assert (again.id, again.body) == (id_, next(each.body for each in station.mes.results() if each.id == id_))
    assert post(station, "/api/v1/results/00000000-0000-8000-8000-000000000000/republish")[0] == 404
    fault.row(how="the broker's ACL refuses one camera; edged outbox retry", tally=station.tally(), recovered_s=recovered_s)
