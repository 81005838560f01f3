"""Training: one point, from its folder's config to its result, and the processes that do it.

May import ``config`` and lower floors; W&B's logger uses ``tracking``.
"""
