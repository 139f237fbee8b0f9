"""Warnings of a training that has collapsed, from what it logs: one line each, with advice, when it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unflip.methods.players import GeneratorPlayer
from unflip.runs import RunConfig

LONG, LINES = 0.05, 10
"""What must last before it is said: this share of the budget, and so many lines of the log."""
WON = 0.01
"""Losses of the discriminator below this, on real images and on translations, leave the generator nothing to learn from."""
NEAR = 0.95
"""Of the loss at chance."""
FLAT = 0.02
"""Translations that vary less than this, as a share of what target images do, are all the same."""

Line = dict[str, float]


class Expected(NamedTuple):
    """What a run's log is held against."""

    budget: int
    views: int
    """Whose losses each part of the discriminator's adds up."""
    chance: dict[str, float]
    """The values of contrastive terms whose projector tells nothing apart, added up over the views."""

    @classmethod
    def of(cls, config: RunConfig, player: GeneratorPlayer) -> Expected:
        """Of a run with that configuration, whose generators ``player`` has."""
        views = config.views(config.size, config.data.source_labels is not None).values()
        chance: dict[str, float] = {}
        for name, term in config.terms.items():
            for view in views:
                value = term.chance(player.shapes(view)) if term.weight > 0 and term.needs <= view.provides else None
                if value is not None:
                    chance[name] = chance.get(name, 0.0) + value
        return cls(config.budget, len(views), chance)

    def alarms(self, lines: Sequence[Line]) -> list[str]:
        """What is wrong since as long as it takes to say so, and was not a line of the log before."""
        if not lines or not self._wrong(lines[-1]):  # as a rule
            return []
        now, before = self._lasting(lines), self._lasting(lines[:-1])
        return [text for name, text in now.items() if name not in before]

    def _lasting(self, lines: Sequence[Line]) -> dict[str, str]:
        """What all of the last lines say."""
        begin = len(lines)
        while begin and (len(lines) - begin < LINES or lines[-1]["seen"] - lines[begin]["seen"] < LONG * self.budget):
            begin -= 1
        last = lines[begin:]
        if len(last) < LINES or last[-1]["seen"] - last[0]["seen"] < LONG * self.budget:
            return {}
        found = [self._wrong(line) for line in last]
        return {name: text for name, text in found[-1].items() if all(name in each for each in found)}

    def _wrong(self, line: Line) -> dict[str, str]:
        wrong = {}
        if all(line.get(f"discriminator_{which}", 1.0) < WON * self.views for which in ("real", "fake")):
            advice = "look for what gives translations away at once (borders, noise, compression), or lower optimizer.discriminator_lr"
            wrong["discriminator"] = f"the discriminator has won: its losses have long been below {WON}, and teach nothing; {advice}"
        for name, how in (("contrast", "have hardly any contrast"), ("variety", "hardly differ from one to the next")):
            if line.get(name, 1.0) < FLAT:
                share = f"{100 * line[name]:.1f} % of what target images do"
                wrong[name] = f"the translations {how} ({share}): they have collapsed; lower optimizer.lr"
        for name, chance in self.chance.items():
            if line.get(name, 0.0) > NEAR * chance:
                what = f"{name} is at chance ({line[name]:.2f} of {chance:.2f}): patches cannot be told apart"
                wrong[name] = f"{what}; see that the images are not blank, and lower optimizer.lr"
        return wrong
