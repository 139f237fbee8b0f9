"""Methods: named tables of weighted terms. ``METHODS`` holds them all."""

from __future__ import annotations

from unflip.methods.cut import CUT, FASTCUT
from unflip.methods.cyclegan import CYCLEGAN
from unflip.methods.decent import DECENT
from unflip.methods.distancegan import DISTANCEGAN
from unflip.methods.gcgan import GCGAN
from unflip.methods.hneg_src import HNEG_SRC
from unflip.methods.lsesim import LSESIM
from unflip.methods.monce import MONCE
from unflip.methods.recipe import Method, Recipe
from unflip.methods.scc import SCC, SCC_CUT
from unflip.methods.semst import SEMST
from unflip.methods.srunit import SRUNIT
from unflip.methods.vsait import VSAIT

_ALL = (CUT, FASTCUT, CYCLEGAN, SRUNIT, SEMST, GCGAN, DISTANCEGAN, LSESIM, SCC, SCC_CUT, HNEG_SRC, MONCE, VSAIT, DECENT)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}

__all__ = ["METHODS", "Method", "Recipe"]
