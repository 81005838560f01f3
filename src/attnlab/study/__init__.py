"""A study: read its points' folders, decide which differences are real, and write tables, figures and page.

It reads only folders: it may import ``ledger`` and the ground, so never torch.
"""

from attnlab.study.analysis import read_analysis
from attnlab.study.report import write_report

__all__ = ["read_analysis", "write_report"]
