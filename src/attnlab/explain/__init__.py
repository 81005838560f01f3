"""What a network looks at: gates, class activation maps, scores against known places, pictures and a page.

It takes any network and images, and knows nothing of points. May import ``data``, ``insertion``, ``attention`` and the
ground.
"""
