"""The whole journey, raw text to a chat model that you talk to, for the hardware it finds."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("speedrun")
