"""A study: its points' folders, read; the leaderboard; the picture. Imports no torch."""

from attnlab.study.report import write_report

__all__ = ["write_report"]
