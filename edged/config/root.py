"""The whole configuration, and the checks that need more than one section."""

from __future__ import annotations

from pydantic import Field, model_validator

from edged.config.camera import Camera
from edged.config.peers import Http, Models, Mqtt, Triton
from edged.config.recipe import Recipe
from edged.config.station import Decode, Gpu, Ledger, Log, Quarantine, Section, Station


class Config(Section):
    station: Station = Station()
    camera: tuple[Camera, ...] = Field(min_length=1)
    recipe: tuple[Recipe, ...] = Field(min_length=1)
    decode: Decode = Decode()
    triton: Triton = Triton()
    models: Models = Models()
    ledger: Ledger = Ledger()
    quarantine: Quarantine = Quarantine()
    mqtt: Mqtt = Mqtt()
    http: Http = Http()
    gpu: Gpu = Gpu()
    log: Log = Log()

    @model_validator(mode="after")
    def _names_unique_and_known(self) -> Config:
        for what, names in (("camera", [c.name for c in self.camera]), ("recipe", [r.name for r in self.recipe])):
            if doubled := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} names must differ; doubled: {', '.join(doubled)}")
        recipes = {recipe.name for recipe in self.recipe}
        for camera in self.camera:
            if camera.recipe not in recipes:
                there = ", ".join(sorted(recipes))
                raise ValueError(f"camera {camera.name} names the recipe {camera.recipe!r}, which is not there; there are {there}")
        return self

    @property
    def topic_base(self) -> str:
        """Everything we publish stands below this topic."""
        s = self.station
        return f"{self.mqtt.prefix or f'{s.enterprise}/{s.site}/{s.area}/{s.tool}'}/edged/v1"
