"""A study: its points' folders, read; which differences are real; the tables, figures and page that say so.

Reads folders alone: may import ``ledger`` and the ground, and so never torch.
"""

from attnlab.study.analysis import read_analysis
from attnlab.study.report import write_report

__all__ = ["read_analysis", "write_report"]
