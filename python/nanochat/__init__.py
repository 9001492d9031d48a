"""nanochat: raw text to a chat model that you talk to, with the hot path native."""

__version__ = "0.1.0"
