"""A study: its points' folders, read; the leaderboard; the picture. Imports no torch."""

from attnlab.study.analysis import read_analysis
from attnlab.study.report import write_report

__all__ = ["read_analysis", "write_report"]
