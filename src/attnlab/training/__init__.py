"""Training: one point, from its folder's config to its result, and the processes that do it.

May import ``config`` and what is below it; W&B's loggers use ``tracking``.
"""
