"""Pre-training."""

from .curve import draw
from .folder import read_log
from .recipes import RECIPES, Recipe
from .run import Outcome, pretrain
from .settings import Settings, Sizes

__all__ = ["RECIPES", "Outcome", "Recipe", "Settings", "Sizes", "draw", "pretrain", "read_log"]
