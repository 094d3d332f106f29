"""A small convolutional network that turns pictures into features; trained here, on the data set that is judged.

Shapes: B pictures, C channels, S side, F features.
"""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

FEATURES: Final = 64
_LAYERS: Final = ((32, 2), (64, 2), (128, 2), (128, 1))
"""Width and stride of each convolution; the sides shrink at once, since most of the time goes into the first layers."""
_CELLS: Final = 2
"""The last grid is averaged to so many cells a side: where a part lies tells more than that it is there."""


class SmallNetwork(nn.Module):
    """Strided 3 x 3 convolutions, group norms, and one linear layer; no state but its weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers, width = list[nn.Module](), channels
        for wider, stride in _LAYERS:
            layers += [nn.Conv2d(width, wider, 3, stride=stride, padding=1), nn.GroupNorm(8, wider), nn.GELU()]
            width = wider
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(_CELLS), nn.Flatten())
        self.head = nn.Linear(width * _CELLS**2, FEATURES)

    def forward(self, x_BCSS: Tensor) -> Tensor:
        """Features of unit length (B, F) of pictures in [-1, 1]."""
        features_BF: Tensor = self.head(self.trunk(x_BCSS))
        return F.normalize(features_BF, dim=1)
