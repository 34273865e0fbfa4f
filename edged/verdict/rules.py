"""From defects to PASS, FAIL or REVIEW by a recipe's rules, with the reason named. Pure.

- A rule holds when at least `min_count` defects fulfil all of its limits. The worst verdict of all rules that hold wins; among equals
  the first rule. No rule holds: PASS, "no defect".
- The reason begins with what decided: `count:`, `area:`, `size:` or `class:`, the worst defect's class and the limit; a rule's name
  follows in brackets: `class:particle>=0.80 (killer)`.
- Zones that a rule names hold for that rule alone, the others for the whole page. `ignore` drops defects centred in it, `only` keeps
  those centred in one of the `only` zones. A defect of the whole image has no centre: zones leave it alone.
- `max_confidence` is exclusive, except 1. A limit in micrometres, where the image's scale is not known, cannot be judged: such a
  defect counts, but the rule then says no more than REVIEW.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.config import Action, Rule, Rules, Zone
from edged.nouns import Defect, VerdictKind

NO_DEFECT = "no defect"
_WORSE = {VerdictKind.PASS: 0, VerdictKind.REVIEW: 1, VerdictKind.FAIL: 2}
_KINDS = {Action.PASS: VerdictKind.PASS, Action.REVIEW: VerdictKind.REVIEW, Action.FAIL: VerdictKind.FAIL}

Decision = tuple[VerdictKind, str]


def worst(decisions: Sequence[Decision]) -> Decision:
    """The worst of several; among equals the first. PASS when there are none."""
    return max(decisions, key=lambda decision: _WORSE[decision[0]], default=(VerdictKind.PASS, NO_DEFECT))


def in_page_zones(defects: Sequence[Defect], rules: Rules, width: int, height: int) -> tuple[Defect, ...]:
    """The defects that the zones of the whole page leave."""
    named = {name for rule in rules.rule for name in rule.zones}
    zones = [zone for zone in rules.zone if zone.name not in named]
    return tuple(defect for defect in defects if _kept(defect, zones, width, height))


def decide(defects: Sequence[Defect], rules: Rules, width: int, height: int) -> Decision:
    """Verdict and reason for defects that `in_page_zones` has kept."""
    held = [decision for rule in rules.rule if (decision := _apply(rule, defects, rules, width, height)) is not None]
    kind, reason = worst(held)
    return (kind, reason) if kind is not VerdictKind.PASS else (kind, NO_DEFECT)


def _apply(rule: Rule, defects: Sequence[Defect], rules: Rules, width: int, height: int) -> Decision | None:
    zones = [zone for zone in rules.zone if zone.name in rule.zones]
    met = [defect for defect in defects if _meets(defect, rule) and _kept(defect, zones, width, height)]
    if len(met) < rule.min_count:
        return None
    top = max(met, key=lambda defect: defect.confidence)
    kind = _KINDS[rule.verdict]
    if rule.min_size_um is not None and kind is VerdictKind.FAIL and sum(d.size_um is not None for d in met) < rule.min_count:
        return VerdictKind.REVIEW, _named(f"size-unknown:{top.name}", rule)
    return kind, _named(_criterion(rule, top), rule)


def _meets(defect: Defect, rule: Rule) -> bool:
    if rule.classes and defect.name not in rule.classes:
        return False
    if defect.confidence < rule.min_confidence:
        return False
    if rule.max_confidence is not None and rule.max_confidence < 1 and defect.confidence >= rule.max_confidence:
        return False
    # a defect of the whole image is as large as anything can be
    if rule.min_area_px is not None and defect.area_px is not None and defect.area_px < rule.min_area_px:
        return False
    return rule.min_size_um is None or defect.size_um is None or max(defect.size_um) >= rule.min_size_um


def _kept(defect: Defect, zones: Sequence[Zone], width: int, height: int) -> bool:
    if defect.box_px is None or not zones:
        return True
    x, y, w, h = defect.box_px
    fx, fy = (x + w / 2) / width, (y + h / 2) / height
    only = [zone for zone in zones if zone.mode == "only"]
    if only and not any(_holds(zone, fx, fy) for zone in only):
        return False
    return not any(_holds(zone, fx, fy) for zone in zones if zone.mode == "ignore")


def _holds(zone: Zone, fx: float, fy: float) -> bool:
    x, y, w, h = zone.rect_frac
    return x <= fx <= x + w and y <= fy <= y + h


def _criterion(rule: Rule, top: Defect) -> str:
    if rule.min_count > 1:
        return f"count:{top.name}>={rule.min_count}"
    if rule.min_area_px is not None:
        return f"area:{top.name}>={rule.min_area_px:g}px"
    if rule.min_size_um is not None:
        return f"size:{top.name}>={rule.min_size_um:g}um"
    return f"class:{top.name}>={rule.min_confidence:.2f}"


def _named(reason: str, rule: Rule) -> str:
    return f"{reason} ({rule.name})" if rule.name else reason
