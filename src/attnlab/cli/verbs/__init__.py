"""One file per verb: its docstring is its line in ``attnlab --help``, ``run(argv)`` returns the exit code."""
