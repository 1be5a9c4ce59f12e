"""Figures and reports, made from the files of a results directory and nothing else."""
