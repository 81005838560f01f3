"""W&B beyond a single point: upload of offline runs, the study's own run, its workspace and report.

It reads only folders: it may import ``ledger`` and the ground.
"""
