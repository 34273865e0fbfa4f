"""From the files to a `Config`: every problem with the file and key it stands in, and the key that was meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edged.config.problems import explained
from edged.config.root import Config
from edged.configfiles import Where, built_in, read
from edged.errors import ConfigError, ConfigProblem


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `path`, its drop-ins and the environment. Raises ConfigError with all problems at once."""
    return _validated(*read(path, environ), str(path))


def from_data(data: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Config:
    """A configuration without a file: `data`, then the environment. Raises ConfigError like `load`."""
    return _validated(*built_in(data, environ), "built in")


def _validated(data: dict[str, Any], where: Where, problems: list[ConfigProblem], default: str) -> Config:
    if problems:
        raise ConfigError(problems)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explained(error, data, where, default)) from None
