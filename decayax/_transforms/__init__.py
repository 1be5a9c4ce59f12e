"""The transforms: one file per family of decays, built by the kernel."""
