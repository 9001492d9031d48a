"""Documents to packed rows of tokens."""

from nanochat.data.loader import Loader, LoaderState, LoaderStats, Step, validation_rows
from nanochat.data.rendering import Render, TokenBatch, render_chat, render_text
from nanochat.data.sources import Corpus, FileSource, GeneratedSource, Source, items

__all__ = [
    "Corpus",
    "FileSource",
    "GeneratedSource",
    "Loader",
    "LoaderState",
    "LoaderStats",
    "Render",
    "Source",
    "Step",
    "TokenBatch",
    "items",
    "render_chat",
    "render_text",
    "validation_rows",
]
