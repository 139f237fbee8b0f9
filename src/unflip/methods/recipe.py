"""A recipe: everything about a method that a run's configuration can change. A method is a named recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from unflip.config import Config, by_kind, unknown, validated
from unflip.losses import TERMS, Term
from unflip.losses.nce import PatchNCE
from unflip.methods.passes import Turn, View, views
from unflip.networks import (
    DISCRIMINATORS,
    GENERATORS,
    IMPORTED,
    DiscriminatorConfig,
    GeneratorConfig,
    MultiscaleConfig,
    PatchGANConfig,
    ProjectorConfig,
    ResnetConfig,
)
from unflip.types import Size

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """Adam, and its learning rate over the run: constant, then linear to zero."""

    lr: PositiveFloat = 2e-4
    discriminator_lr: PositiveFloat | None = None
    """Default: lr."""
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    """Times the weights, added to their gradients (Adam's own, not AdamW's)."""
    constant: float = Field(default=0.5, ge=0, lt=1)
    """The share of the budget during which the rate stays constant."""

    def rate(self, player: str) -> float:
        """The first learning rate of "generator" or "discriminator"."""
        return (self.discriminator_lr or self.lr) if player == "discriminator" else self.lr


class Recipe(Config):
    """Networks, weighted terms and optimizer. ``sides`` 1: source to target only; 2: both directions, each with its own networks."""

    sides: Literal[1, 2] = 1
    generator: SerializeAsAny[GeneratorConfig] = ResnetConfig()
    multiscale: MultiscaleConfig | None = None
    """Context and detail together, for high-resolution crops; None: the generator alone."""
    discriminator: SerializeAsAny[DiscriminatorConfig] = PatchGANConfig()
    projector: ProjectorConfig | None = None
    terms: dict[str, SerializeAsAny[Term]]
    flip_equivariance: bool = False
    """Mirror the source before every other step; the features of the translation are mirrored back before they are compared (FastCUT)."""
    turn: Turn = "none"
    """Also translate turned images, by 90 degrees (``rotate``) or upside down (``flip``), with a discriminator of their own (GcGAN)."""
    pool: NonNegativeInt = 0
    """The discriminator also sees earlier translations, from a pool of this size (Shrivastava et al., CVPR 2017)."""
    optimizer: OptimizerConfig = OptimizerConfig()

    def views(self, size: Size, labels: bool = False) -> dict[str, View]:
        """What the method looks at, for crops of ``size``. ``labels``: of the source, are there."""
        return views(self.sides, self.turn, self.multiscale is not None, size, labels)

    def idles(self) -> bool:
        """Whether there are steps in which some of the generators' player's parameters have no gradient."""
        on = [term for term in self.terms.values() if term.weight > 0]
        steady = [term for term in on if term.start == 0 and term.every == 1]
        projects = any(isinstance(term, PatchNCE) for term in steady)  # at every tap
        return (self.projector is not None and not projects) or any(type(t).build is not Term.build for t in on if t not in steady)

    def _without(self, missing: frozenset[str]) -> str:
        if "turned" in missing:
            return "a method with turn=none"
        return "a method without multiscale" if "detail" in missing else f"a method with sides={self.sides}"

    @field_validator("generator", mode="before")
    @classmethod
    def _generator_by_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("kind") in tuple(IMPORTED):  # a dict would want to hash what was given
            raise ValueError(f"kind {value['kind']} is only for imported weights, which translate; train {' or '.join(GENERATORS)}")
        return by_kind(value, GENERATORS, "generator")

    @field_validator("discriminator", mode="before")
    @classmethod
    def _discriminator_by_kind(cls, value: Any) -> Any:
        return by_kind(value, DISCRIMINATORS, "discriminator")

    @field_validator("terms", mode="before")
    @classmethod
    def _terms_by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name in value:
            if name not in TERMS:
                raise ValueError(unknown("term", name, TERMS))
        return {name: validated(TERMS[name], term, name) for name, term in value.items()}

    @model_validator(mode="after")
    def _terms_fit(self) -> Recipe:
        if "adversarial" not in self.terms or self.terms["adversarial"].weight == 0:
            raise ValueError("a method needs the term adversarial with a weight above 0: nothing else draws the translation to the target")
        if self.multiscale is not None and self.turn != "none":
            raise ValueError("turn and multiscale cannot be combined: a turned view has no context; set turn=none or multiscale=null")
        if self.flip_equivariance and self.turn != "none":
            raise ValueError("turn and flip_equivariance cannot be combined; set turn=none or flip_equivariance=false")
        offered = frozenset().union(*(view.provides for view in self.views(Size(4, 4), labels=True).values()))
        for name, term in self.terms.items():
            missing = term.needs - offered
            if term.weight > 0 and missing:
                what = f"{', '.join(sorted(missing))}, which {self._without(missing)} does not produce"
                raise ValueError(f"term {name} needs {what}; set {name}.weight=0")
            if term.weight > 0 and term.projects and self.projector is None:
                raise ValueError(f"term {name} needs a projector; set projector.width")
        return self


class Method(Config):
    """A recipe with its name, its source and its paper's training length."""

    name: str
    title: str
    paper: str
    summary: str
    notes: str = ""
    """What else its user must know: what is published and what is not, how parts are switched off."""
    epochs: PositiveInt
    """The paper's training length, in passes over the larger of the two sets."""
    recipe: Recipe
