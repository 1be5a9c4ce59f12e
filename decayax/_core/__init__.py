"""What all other folders use: leaf paths, dtypes, checked strengths, text tables."""
