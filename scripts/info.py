"""Say which native path serves which operation on this machine, and why."""

from nanochat.__main__ import script

if __name__ == "__main__":
    script("info")
