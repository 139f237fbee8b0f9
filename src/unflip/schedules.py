"""Schedules: pure functions of ``progress``, the share of the budget (in source images) that has been seen, in [0, 1]."""

from __future__ import annotations


def constant_then_linear(progress: float, constant: float) -> float:
    """Learning-rate factor: 1 during the first ``constant`` share of the budget, then a straight line to 0 at its end.

    CycleGAN (Zhu et al., ICCV 2017) and CUT (Park et al., ECCV 2020), which use ``constant = 0.5``, by epochs instead of images.
    """
    if progress <= constant:
        return 1.0
    return (1.0 - progress) / (1.0 - constant)


def ema_decay(images_seen: int, batch: int, half_life: float, share: float) -> float:
    """Decay of the weights' moving average for one step of ``batch`` images.

    The half-life is ``half_life`` images, but at most ``share`` of the images seen so far, so that the average forgets the first,
    useless weights early in training. (The ramp-up of Karras et al., CVPR 2020 and 2024.)
    """
    effective = min(half_life, share * images_seen)
    return 0.5 ** (batch / effective) if effective > 0 else 0.0
