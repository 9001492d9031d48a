"""Generation: continuous batching, sampling, tools. ``Engine`` is the door."""

from nanochat.engine.calculator import CalculatorError, calculate
from nanochat.engine.engine import Engine
from nanochat.engine.request import Completion, Usage
from nanochat.engine.sampling import Sampling
from nanochat.engine.stream import Stream
from nanochat.engine.turn import Piece

__all__ = [
    "CalculatorError",
    "Completion",
    "Engine",
    "Piece",
    "Sampling",
    "Stream",
    "Usage",
    "calculate",
]
