"""Whether a decoder's answer may be believed: a hostile image may have taken that process over, and what it says is input like any other.

Invariants
- What passes has the types and ranges that the daemon's own code would have made: no number that is none, no page without end.
- An answer that asks for more made progress: nobody is kept busy for ever.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from edged.vision.wire import Job

MAX_PAGES, MAX_TILES, MAX_STEPS = 10_000, 1_000_000, 1000
_MOST, MOST_PX = 1 << 62, 1 << 40
_REASON, _HEX, _MEDIA = re.compile(r"[a-z0-9-]{0,40}"), re.compile(r"[0-9a-f]{0,64}"), re.compile(r"image/[a-z]{1,20}")
_OTHER = ("vanished", "changed", "unavailable", "flat-field")
_ALWAYS = {"number", "outcome", "timing"}
_KEYS = {
    "page": _ALWAYS | {"image", "quality", "hash", "steps", "tensors", "need", "more"},
    "rejected": _ALWAYS | {"image", "reason", "detail", "whole", "more"},
    **dict.fromkeys(_OTHER, _ALWAYS | {"detail"}),
}


def sound(message: Mapping[str, Any], jobs: Sequence[Job]) -> bool:
    """Whether a decoder's message answers exactly these jobs in a form the daemon can take in without looking twice."""
    answers = message.get("answers")
    if not isinstance(answers, list) or len(answers) != len(jobs):
        return False
    return all(isinstance(answer, dict) and _sound(answer, job) for answer, job in zip(answers, jobs, strict=True))


def _sound(answer: Mapping[str, Any], job: Job) -> bool:
    outcome, timing = answer.get("outcome"), answer.get("timing")
    if not isinstance(outcome, str) or not answer.keys() <= _KEYS.get(outcome, set()):
        return False
    if answer.get("number") != job.number or not isinstance(timing, dict) or len(timing) > 10:
        return False
    if not all(len(stage) <= 32 and _number(ms) for stage, ms in timing.items()):
        return False
    if outcome == "page":
        return _page(answer, job)
    if outcome == "rejected":
        words = _text(answer.get("reason"), 40) and bool(_REASON.fullmatch(answer["reason"])) and _text(answer.get("detail"), 8192)
        return words and isinstance(answer.get("whole"), bool) and _image(answer.get("image"), job) and _more(answer, job)
    return _text(answer.get("detail"), 8192)


def _page(answer: Mapping[str, Any], job: Job) -> bool:
    tensors: Any = answer.get("tensors")
    need: Any = answer.get("need")
    quality: Any = answer.get("quality")
    steps: Any = answer.get("steps")
    if (
        not all(isinstance(each, list) for each in (tensors, need, quality, steps))
        or not _image(answer.get("image"), job)
        or not all(isinstance(each, list) and len(each) == 2 for each in tensors)
    ):
        return False
    positions = [each[0] for each in tensors]
    return (
        answer["image"][3] == job.page
        and len(answer["image"][0]) == 64
        and all(_whole(position, len(job.slots) - 1) for position in positions)
        and len(set(positions)) == len(positions)
        and all(_geometry(each[1]) for each in tensors)
        and len(quality) == 4
        and all(_number(value) for value in quality)
        and len(need) == len(job.done)
        and all(_whole(count, MAX_TILES) for count in need)
        and (not any(need) or bool(tensors))
        and sum(job.done) + len(tensors) + sum(need) <= MAX_TILES
        and isinstance(answer.get("more"), bool)
        and _more(answer, job)
        and _text(answer.get("hash"), 64)
        and len(steps) <= MAX_STEPS
        and all(_text(step, 400) for step in steps)
    )


def _more(answer: Mapping[str, Any], job: Job) -> bool:
    more = answer.get("more", False)
    return more is False or (more is True and job.page + 1 < answer["image"][4])


def _image(data: Any, job: Job) -> bool:
    if not isinstance(data, list) or len(data) != 11:
        return False
    sha256, nbytes, media_type, page, pages, *numbers, taken, source = data
    return (
        isinstance(sha256, str)
        and len(sha256) in (0, 64)
        and bool(_HEX.fullmatch(sha256))
        and _whole(nbytes, _MOST)
        and (media_type is None or (isinstance(media_type, str) and bool(_MEDIA.fullmatch(media_type))))
        and _whole(page, job.page)
        and _whole(pages, MAX_PAGES)
        and all(value is None or _whole(value, MOST_PX) for value in numbers)
        and (taken is None or _moment(taken))
        and (source is None or _text(source, 64))
    )


def _geometry(data: Any) -> bool:
    if not isinstance(data, list) or len(data) != 7:
        return False
    *floats, valid, tile, tiles = data
    fits = _whole(tiles, MAX_TILES) and _whole(tile, tiles - 1)
    return fits and all(map(_number, floats)) and isinstance(valid, list | tuple) and len(valid) == 4 and all(map(_number, valid))


def _moment(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _number(value: Any) -> bool:
    return type(value) in (int, float) and -_MOST < value < _MOST and math.isfinite(value)


def _text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most
