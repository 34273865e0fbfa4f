"""Which packages a recipe's models are, how their inputs are filled, or why they cannot be: from the live repository alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.config import Recipe
from edged.errors import ModelMismatch
from edged.inference.repository import Package, Repository
from edged.nouns import InputPlan, ModelContract


@dataclass(frozen=True, slots=True)
class RecipeModels:
    """`problem` says why there are no packages."""

    recipe: Recipe
    packages: tuple[Package, ...] = ()
    plans: tuple[InputPlan, ...] = ()
    problem: ModelMismatch | None = None

    def require(self) -> RecipeModels:
        """ModelMismatch if there is a problem."""
        if self.problem is not None:
            raise self.problem
        return self

    def contracts(self) -> tuple[ModelContract, ...]:
        return tuple(package.manifest.contract() for package in self.packages)

    @property
    def triton_names(self) -> Sequence[str]:
        return [package.manifest.triton_name for package in self.packages]

    def resolved(self, repository: Repository) -> RecipeModels:
        """Looked up again, unless it was found before: a running recipe keeps its versions until the next start."""
        if self.packages:
            return self
        try:
            packages = tuple(repository.package(reference) for reference in self.recipe.models)
            plans = tuple(package.manifest.plan(self.recipe.preprocess) for package in packages)
        except ModelMismatch as error:
            return RecipeModels(self.recipe, problem=error)
        return RecipeModels(self.recipe, packages, plans)
