"""What the parts need: imported once, so that each part's process has it at once; CUDA stays untouched."""

import attnlab.sweep.launch.preload  # noqa: F401  (before all that imports torch)
import tests.gpu.parts  # noqa: F401
from tests import warm

warm.server()  # of the commands of all parts
