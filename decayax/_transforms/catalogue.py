"""The catalogue: ways of shrinking weights, one public name each."""

from decayax._transforms.anchored import decay_to, decay_to_average, decay_to_init
from decayax._transforms.by_gradient import selective_projection, touched_decay
from decayax._transforms.cautious import cautious_decay
from decayax._transforms.constrained import constrain_norm
from decayax._transforms.following import corrected_decay, target_norm_decay
from decayax._transforms.kernel import DecayMemoryState, DecayState
from decayax._transforms.lora import merged_lora_decay
from decayax._transforms.norms import fixed_norm, norm_control
from decayax._transforms.orthogonal import (
    project_radial_gradient,
    project_radial_update,
)
from decayax._transforms.penalty import decoupled_penalty, l2_penalty
from decayax._transforms.perturb import shrink_and_perturb
from decayax._transforms.proximal import proximal_decay, soft_threshold
from decayax._transforms.radial import (
    pin_radius,
    radial_brake,
    update_to_weight_floor,
)
from decayax._transforms.rotational import rotational
from decayax._transforms.spectral import spectral_decay


__all__ = [
    "cautious_decay",  # pulls with a gate or a rate of their own
    "corrected_decay",
    "touched_decay",
    "decay_to",  # pulls to an anchor
    "decay_to_init",
    "decay_to_average",
    "norm_control",  # control of a norm
    "target_norm_decay",
    "constrain_norm",
    "fixed_norm",
    "spectral_decay",
    "rotational",
    "proximal_decay",  # proximal steps, penalties
    "soft_threshold",
    "decoupled_penalty",
    "merged_lora_decay",
    "l2_penalty",
    "radial_brake",  # the radial part of gradients and steps
    "pin_radius",
    "update_to_weight_floor",
    "project_radial_gradient",
    "project_radial_update",
    "selective_projection",  # fine-tuning, warm starts
    "shrink_and_perturb",
    "DecayState",  # states
    "DecayMemoryState",
]
