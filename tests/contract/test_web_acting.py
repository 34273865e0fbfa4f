"""What people do to the ledger over HTTP: who may, what is answered, what is refused, and that all of it is audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.web_station import FakeStation, ask, assert_problem, bearing, opened
from edged.errors import Conflict, Unavailable

OPERATOR = "operator-token-0123456789ab"
VIEWER = "viewer-token-0123456789ab"
RESULT = "5f6c1e77-7b1e-8c44-9d55-3f0a2b6c0000"
WRITES = (f"results/{RESULT}/rejudge", f"results/{RESULT}/republish", f"quarantine/{RESULT}/release", "outbox/retry")


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"operator a.meier {OPERATOR}\nviewer wall {VIEWER}\n")
    return path


@pytest.mark.parametrize("path", WRITES)
async def test_an_operator_may_and_a_viewer_may_not(path: str, tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        status, body, _ = await ask(f"{url}api/v1/{path}", "POST", headers=bearing(VIEWER))
        assert_problem(body, 403)
        assert (status, station.actions.changes) == (403, [])
        status, _, _ = await ask(f"{url}api/v1/{path}", "POST", headers=bearing(OPERATOR))
        assert status in (200, 202)
    (change,) = station.actions.changes
    assert (change.who, change.role) == ("a.meier", "operator")
    assert change.what in ("results.rejudge", "results.republish", "quarantine.release", "outbox.retry")


async def test_what_was_accepted_says_where_its_result_will_be(tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        answer = await ask(f"{url}api/v1/results/{RESULT}/rejudge", "POST", headers=bearing(OPERATOR), json={"recipe": "second"})
    status, body, headers = answer
    assert (status, body["state"], body["supersedes"]) == (202, "accepted", RESULT)
    assert headers["Location"] == f"/api/v1/results/{body['id']}"
    assert station.actions.changes[0].after == {"judgement": 1, "recipe": "second"}


@pytest.mark.parametrize(
    ("raised", "status", "kind"),
    [
        (Conflict("image-gone", "The content is no longer there.", "Drop it again."), 409, "image-gone"),
        (Conflict("rejudgement-open", "It is being judged again already."), 409, "rejudgement-open"),
        (LookupError("x"), 404, "not-found"),
        (ValueError("There is no recipe x; there are maps."), 400, "bad-request"),
        (Unavailable("folder:cam1", "the folder does not answer"), 503, "service-unavailable"),
    ],
)
async def test_what_stands_in_the_way_is_a_problem_of_its_own_kind(raised: Exception, status: int, kind: str, tokens_file: Path) -> None:
    station = FakeStation()
    station.actions.raises = raised
    async with opened(station, tokens_file=tokens_file) as url:
        for path in WRITES[0], WRITES[2]:
            answered, body, _ = await ask(f"{url}api/v1/{path}", "POST", headers=bearing(OPERATOR))
            assert_problem(body, status)
            assert (answered, body["type"]) == (status, f"urn:edged:problem:{kind}")


async def test_a_body_that_is_not_right_is_named_and_changes_nothing(tokens_file: Path) -> None:
    station = FakeStation()
    async with opened(station, tokens_file=tokens_file) as url:
        path = f"{url}api/v1/results/{RESULT}/rejudge"
        status, body, _ = await ask(path, "POST", headers=bearing(OPERATOR), json={"recipe": "", "colour": "red"})
        assert_problem(body, 400)
        assert (status, {error["parameter"] for error in body["errors"]}) == (400, {"recipe", "colour"})
        status, body, _ = await ask(f"{url}api/v1/results/{RESULT[:-4]}9999/republish", "POST", headers=bearing(OPERATOR))
        assert_problem(body, 404)
        status, body, _ = await ask(f"{url}api/v1/results/no%20id/rejudge", "POST", headers=bearing(OPERATOR))
        assert_problem(body, 404)


async def test_outbox_and_quarantine_are_told_a_page_at_a_time() -> None:
    async with opened(FakeStation()) as url:
        _, outbox, _ = await ask(f"{url}api/v1/outbox")
        _, quarantine, _ = await ask(f"{url}api/v1/quarantine?limit=10")
        status, body, _ = await ask(f"{url}api/v1/quarantine?limit=0")
    assert (outbox["rows"], outbox["oldest_s"], outbox["parked"][0]["reason"]) == ({"due": 1, "parked": 1}, 3.5, "quota")
    assert (quarantine["images"], quarantine["next"]) == ([{"id": "x", "kept": True}], None)
    assert status == 400
    assert_problem(body, 400)
