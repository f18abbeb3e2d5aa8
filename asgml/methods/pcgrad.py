"""PCGrad: projection of conflicting gradients."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from asgml.methods.base import Step
from asgml.methods.shared.tasks import TaskGradients, Tasks


@dataclass
class PCGrad(Tasks):
    """PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020).

    Tasks t: the fused loss and every unimodal loss; g_t their gradients with respect to all encoders together. Every
    g_i meets all g_j (j != i), as backward left them, in random order:

        h_i = g_i;    h_i <- h_i - (h_i . g_j) / |g_j|^2 * g_j   where h_i . g_j < 0;    applied:  sum_i h_i

    Fusion and heads keep their own loss's gradient. The order depends on the seed and the step alone. Any number of
    modalities; one that nobody in the batch has is no task of the step. No hyper-parameters.
    """

    def weights(self, step: Step, gradients: TaskGradients) -> Tensor:
        gram = gradients.gram
        draw = random.Random(f"{self._seed} pcgrad {step.t}")  # on the host: the same on every rank
        unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        squared = gram.diagonal().clamp(min=torch.finfo(gram.dtype).tiny)
        total = torch.zeros_like(gram[0])
        for i in range(len(gram)):
            others = [j for j in range(len(gram)) if j != i]
            draw.shuffle(others)
            row = unit[i]
            for j in others:
                row = row - (row @ gram[j]).clamp(max=0) / squared[j] * unit[j]
            total = total + row
        return total
