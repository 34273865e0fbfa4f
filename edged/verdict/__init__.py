"""The pure room: from model outputs to defects, from defects to a verdict with its reason."""

from __future__ import annotations

from edged.verdict.defects import find_defects, golden_defects, page_scores
from edged.verdict.judge import MAX_DEFECTS, gate, identified, join_parts, judge, rules_name

__all__ = ["MAX_DEFECTS", "find_defects", "gate", "golden_defects", "identified", "join_parts", "judge", "page_scores", "rules_name"]
