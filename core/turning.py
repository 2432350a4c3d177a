"""Turned, zoomed and recoloured images, a batch at a time, where the network is.

What core.augment's `turn` and `colour` do image by image. torchvision's transforms take batches,
too, but draw one angle and one colour for all images of one.
"""

import torch
import torch.nn.functional as F

from core.augment import COLOUR, TURN, ZOOM
from core.device import planes

GREY = (0.299, 0.587, 0.114)  # how bright a colour is, ITU-R BT.601


def turns(count, generator):
    """An affine map for each image, half of them the identity: (N, 2, 3).

    The others turn by up to TURN degrees and zoom by up to ZOOM, about the image's centre.
    """
    chosen, angle, zoom = torch.rand(3, count, generator=generator)
    chosen = chosen < 0.5
    angle = torch.where(chosen, torch.deg2rad(TURN * (2 * angle - 1)), 0.0)
    zoom = torch.where(chosen, 1 + ZOOM * (2 * zoom - 1), 1.0)
    cosine, sine, none = angle.cos() / zoom, angle.sin() / zoom, torch.zeros(count)
    rows = torch.stack([cosine, -sine, none, sine, cosine, none], 1)
    return rows.view(count, 2, 3)


def turned(images, maps):
    """Images (B, H, W, 3), seen through the maps (B, 2, 3); the border is mirrored."""
    if not len(images):  # of a small last batch one of several processes has none
        return images
    images = planes(images)
    grid = F.affine_grid(maps, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return images.permute(0, 2, 3, 1)


def colours(count, generator):
    """Factors of brightness, contrast and saturation for each image, 1 ± COLOUR: (3, N)."""
    return 1 + COLOUR * (2 * torch.rand(3, count, generator=generator) - 1)


def recoloured(images, factors):
    """Images (B, H, W, 3) in 0..255, brighter, with more contrast and colour by factors (3, B)."""
    brightness, contrast, saturation = factors[:, :, None, None, None]
    weights = torch.tensor(GREY, device=images.device)
    images = (brightness * images).clamp_(0, 255)
    mean = (images @ weights).mean((1, 2))[:, None, None, None]
    images = torch.lerp(mean, images, contrast).clamp_(0, 255)
    grey = (images @ weights)[..., None]
    return torch.lerp(grey, images, saturation).clamp_(0, 255)
