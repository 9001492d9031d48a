"""The report card: records that stages leave in a run folder, and the page made from them."""

from nanochat.report.command import ReportConfig, report

__all__ = ["ReportConfig", "report"]
