"""``python -m tests.pausing UNTIL <words of attnlab train>``: launch points that are paused after so many epochs.

As a search does; 0: they are trained to their ends.
"""

import sys

from attnlab.errors import InputError
from attnlab.sweep import plan
from attnlab.sweep.launch.launchers import launch

if __name__ == "__main__":
    made = plan.make(sys.argv[2:])
    for point in made.points:
        point.until = int(sys.argv[1]) or None
    try:
        launch(made, made.hydra["launcher"])
    except InputError as error:
        sys.exit(str(error))
