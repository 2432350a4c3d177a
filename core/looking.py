"""Where a network looks: Grad-CAM, of one module's map.

grad_cam(network, images)    which places of the map speak for the answer
"""

import torch


def grad_cam(network, images, classes=None, layer=None):
    """Heat (N, H, W), float32 in 0..1: where the map speaks for a class, drawn over the image.

    R. Selvaraju et al. 2017, "Grad-CAM" (arXiv:1610.02391), by captum: the channels of a map, each
    weighted with the mean of its gradient, are added up; what speaks against the class is cut off.
    Each image's largest value is 1. It is all 0 where nothing speaks for the class.

    network: evaluating; left as it was.
    images: normalised (N, 3, H, W), float32, on the network's device.
    classes: (N,) whose logit is explained; None for the predicted ones.
    layer: the module whose output is the map; None for `network.c4`, which in a model.FourBlocks
        is the last one before the pooling.

    Raises ValueError for a network that is training, or has no c4 where no layer is given.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # a second, which others need not wait

    layer = getattr(network, "c4", None) if layer is None else layer
    if network.training or not isinstance(layer, torch.nn.Module):
        raise ValueError(
            f"{type(network).__name__} must evaluate (call network.eval() first) and have a block "
            "c4 (see model.FourBlocks); or give the module whose map is meant, layer=network.conv."
        )
    if classes is None:
        with torch.no_grad():
            classes = network(images).argmax(1)
    classes = torch.as_tensor(classes, device=images.device)
    maps = LayerGradCam(network, layer).attribute(images, classes.long(), relu_attributions=True)
    maps = maps.detach().float()  # (N, 1, h, w)
    if maps.shape[2:] != images.shape[2:]:
        maps = LayerAttribution.interpolate(maps, tuple(images.shape[2:]), "bilinear")
    most = maps.amax((1, 2, 3), keepdim=True)
    return (maps / most.clamp(min=1e-12))[:, 0].cpu().numpy()
