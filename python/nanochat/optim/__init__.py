"""Muon and AdamW over named parameter groups, their schedules, and the depth dial's formulas."""

from nanochat.optim.groups import Rates, build_groups
from nanochat.optim.muon_adamw import MuonAdamW
from nanochat.optim.scaling import Plan, plan
from nanochat.optim.schedule import Schedule

__all__ = ["MuonAdamW", "Plan", "Rates", "Schedule", "build_groups", "plan"]
