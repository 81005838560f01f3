"""The data sets, one file a family."""
