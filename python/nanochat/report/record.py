"""Moved to ``nanochat.common.record``, where training may import it from."""

from nanochat.common.record import *  # noqa: F403
