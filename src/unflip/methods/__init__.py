"""Methods: named tables of weighted terms. ``METHODS`` holds them all."""

from __future__ import annotations

from unflip.methods.cut import CUT, FASTCUT
from unflip.methods.cyclegan import CYCLEGAN
from unflip.methods.recipe import Method, Recipe
from unflip.methods.semst import SEMST
from unflip.methods.srunit import SRUNIT

METHODS: dict[str, Method] = {method.name: method for method in (CUT, FASTCUT, CYCLEGAN, SRUNIT, SEMST)}

__all__ = ["METHODS", "Method", "Recipe"]
