"""Generation: continuous batching, sampling, tools. ``Engine`` is the door."""

from nanochat.engine.calculator import CalculatorError, calculate
from nanochat.engine.engine import Engine
from nanochat.engine.native import NativeOptions
from nanochat.engine.request import Completion, TokenLogprobs, Usage
from nanochat.engine.sampling import Sampling
from nanochat.engine.stream import Stream
from nanochat.engine.turn import Piece

__all__ = [
    "CalculatorError",
    "Completion",
    "Engine",
    "NativeOptions",
    "Piece",
    "Sampling",
    "Stream",
    "TokenLogprobs",
    "Usage",
    "calculate",
]
