"""How long does an audit take, relative to the audit of one matrix?

Question    How much longer than for one matrix does `dx.audit` take for the 148 leaves
            of GPT-2, for 1000 leaves, behind a clip by the global norm, for muon, and
            with a horizon?
Command     python -m experiments.benchmarks.audit
Cost        about five minutes on 2 CPU cores
Expected    At most 3 times as long for 148 leaves, and 6 times for 1000. Leaves that an
            optimizer treats alike are measured once; before, each leaf was compiled.

Every audit runs in a process of its own, so that it compiles everything. The cases take
turns, and the table shows ratios of medians. Times are not printed, because they depend
on the machine.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

import decayax as dx


ROUNDS = 3
STRENGTH = 0.1


def shape(*axes: int) -> Any:
    """A float32 leaf."""
    return jax.ShapeDtypeStruct(axes, "float32")


def dense(rows: int, columns: int) -> dict[str, Any]:
    """A dense layer."""
    return {"kernel": shape(rows, columns), "bias": shape(columns)}


def gpt2(layers: int = 12, width: int = 768) -> dict[str, Any]:
    """The parameters of GPT-2 small."""

    def norm() -> dict[str, Any]:
        return {"scale": shape(width), "bias": shape(width)}

    blocks = {
        f"h{i}": {
            "ln_1": norm(),
            "attn": {"c_attn": dense(width, 3 * width), "c_proj": dense(width, width)},
            "ln_2": norm(),
            "mlp": {
                "c_fc": dense(width, 4 * width),
                "c_proj": dense(4 * width, width),
            },
        }
        for i in range(layers)
    }
    embeddings = {"wte": shape(50257, width), "wpe": shape(1024, width)}
    return {**embeddings, **blocks, "ln_f": norm()}


def thousand() -> dict[str, Any]:
    """A thousand matrices."""
    return {f"layer_{i}": {"kernel": shape(64, 64)} for i in range(1000)}


def clipped() -> optax.GradientTransformation:
    """AdamW behind a clip by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=STRENGTH)
    )


def warm_up() -> optax.GradientTransformation:
    """AdamW with a schedule."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2000, 100_000)
    return optax.adamw(schedule, weight_decay=STRENGTH)


CASES: dict[str, Callable[[], Any]] = {
    "one matrix, adamw": lambda: dx.audit(
        optax.adamw(1e-3, weight_decay=STRENGTH), {"kernel": shape(64, 64)}
    ),
    "GPT-2, adamw with a mask": lambda: dx.audit(
        dx.adamw(1e-3, weight_decay=STRENGTH, mask=dx.masks.no_bias_or_norm), gpt2()
    ),
    "GPT-2, clip and adamw": lambda: dx.audit(clipped(), gpt2()),
    "GPT-2, adamw with a horizon": lambda: dx.audit(warm_up(), gpt2(), horizon=100_000),
    "GPT-2, muon": lambda: dx.audit(contrib.muon(1e-3, weight_decay=STRENGTH), gpt2()),
    "1000 matrices, adamw": lambda: dx.audit(
        optax.adamw(1e-3, weight_decay=STRENGTH), thousand()
    ),
    "1000 matrices, clip and adamw": lambda: dx.audit(clipped(), thousand()),
}


def seconds(case: str) -> float:
    """The time of one audit in a new process, without its imports."""
    command = [sys.executable, "-m", "experiments.benchmarks.audit", case]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout)


def main() -> None:
    """Run the cases in turn and print the table."""
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        for case in CASES:
            times[case].append(seconds(case))
    medians = {case: statistics.median(own) for case, own in times.items()}
    one = medians["one matrix, adamw"]
    print("| audit | ratio |\n|---|--:|")
    for case, median in medians.items():
        print(f"| {case} | {median / one:.1f} |")


if __name__ == "__main__":
    if sys.argv[1:]:
        begin = time.perf_counter()
        CASES[sys.argv[1]]()
        print(time.perf_counter() - begin)
    else:
        main()
