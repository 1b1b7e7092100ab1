"""Spectral normalisation (Gouk et al. 2018) as DDU saves it → the plain weights that its network computes with.

In eval mode u and v stand still, so the normalised weight is a constant: it is computed once, and the network needs no
option. Source: omegafragger/DDU net/spectral_normalization; the coefficient is its default and is not in the file.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_PARTS = ("_orig", "_u", "_v", "_sigma")


def folded(tensors: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """Adds X.weight for every X.weight_orig: W / (max(1, σ/c) + 1e-5) of a 3×3, σ = u · (W ∗ v); of a 1×1
    W / max(1, σ/c), σ = uᵀ W v. In float64, rounded to float32."""
    found = dict(tensors)
    for key in tensors:
        if not key.endswith(".weight_orig"):
            continue
        name = key.removesuffix("_orig")
        if any(name + part not in tensors for part in _PARTS) or tensors[key].dim() != 4:
            raise ValueError(f"{key} has no u, v and sigma of spectral normalisation beside it")
        weight, u, v = (tensors[name + part].to(torch.float64).contiguous() for part in ("_orig", "_u", "_v"))
        out_ch, in_ch, side, _ = weight.shape
        width, width_out = math.isqrt(v.numel() // in_ch), math.isqrt(u.numel() // out_ch)
        width, width_out = (1, 1) if side == 1 else (width, width_out)
        whole = (u.numel(), v.numel()) == (out_ch * width_out**2, in_ch * width**2)
        if not whole or width_out not in (width, -(-width // 2)):
            raise ValueError(f"{name}_u and {name}_v are no maps (torch's own spectral_norm normalises otherwise)")
        if side == 1:
            sigma, epsilon = u.flatten() @ weight.flatten(1) @ v.flatten(), 0.0
        else:
            image = v.view(1, in_ch, width, width)
            sigma = u.flatten() @ F.conv2d(image, weight, stride=-(-width // width_out), padding=side // 2).flatten()
            epsilon = 1e-5
        found[name] = (weight / (max(1.0, float(sigma) / coefficient) + epsilon)).to(torch.float32)
    return found


def parts(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The keys that are there in place of the weights."""
    return tuple(key for key in tensors if key.endswith(tuple(f".weight{part}" for part in _PARTS)))
