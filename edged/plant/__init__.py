"""The plant's side: the message model, and the broker that takes what the outbox holds."""

from edged.plant.messages import Messages, result_schema
from edged.plant.plant import Plant, PlantSnapshot

__all__ = ["Messages", "Plant", "PlantSnapshot", "result_schema"]
