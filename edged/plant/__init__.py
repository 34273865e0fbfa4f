"""The plant's side: the message model and the broker."""

from edged.plant.messages import Messages, result_schema

__all__ = ["Messages", "result_schema"]
