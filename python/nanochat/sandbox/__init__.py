"""Untrusted Python in a process that can reach nothing. README.md: what that stops, what not."""

from nanochat.sandbox.run import Outcome, SandboxUnavailable, Status, isolation, run_python

__all__ = ["Outcome", "SandboxUnavailable", "Status", "isolation", "run_python"]
