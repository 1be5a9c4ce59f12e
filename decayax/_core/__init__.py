"""What everything stands on: paths of leaves, dtypes, checked strengths, tables."""
