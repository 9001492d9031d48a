"""Write the report card of a run again from its files."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("report")
