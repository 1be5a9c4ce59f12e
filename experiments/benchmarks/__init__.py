"""Scripts that measure speed or tabulate other libraries; no study needs them."""
