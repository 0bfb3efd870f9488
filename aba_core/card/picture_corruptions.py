"""The 15 corruptions of the -C benchmarks for small pictures, each at five severities.

Source: Hendrycks and Dietterich 2019; parameters are those of CIFAR-10-C where they fit. Lengths in
pixels are theirs for sides up to 32 and grow with larger sides. These differ from the benchmark:

- glass blur exchanges no neighbours one after another, but reads every pixel from a place nearby;
- motion blur averages along one random direction a picture, at 1-pixel steps;
- snow, frost and fog are drawn, not photographed: fog and frost are noise with a 1/f² spectrum in
  place of the diamond-square algorithm and of photographs of frost;
- elastic transform has a smoothed random field of displacements without an affine part;
- JPEG is the rounding of the cosine transform at the quality's luminance table, without
  subsampling of colours.

Each takes pictures [sample, channel, row, column] in [0, 1] as float64, a severity from 1 to 5 and
a generator, and returns pictures that may leave [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from aba_core.quantities import CORRUPTIONS

Pictures = Float[Tensor, "sample channel row column"]
Damage = Callable[[Tensor, int, torch.Generator], Tensor]


def _scale(x: Tensor) -> float:
    """What the benchmark's pixels are multiplied with."""
    return max(1.0, max(x.shape[2:]) / 32)


def _normal(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


# --- noise ---------------------------------------------------------------------------------------


def gaussian_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1] * _normal(x.shape, generator)


def shot_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Poisson counts at so many quanta for white."""
    quanta = (500, 250, 100, 75, 50)[severity - 1]
    return torch.poisson(x * quanta, generator=generator) / quanta


def impulse_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """A share of values becomes black or white."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = _uniform(x.shape, generator)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, x))


# --- blur ----------------------------------------------------------------------------------------


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel by the same kernel of odd sides; borders repeat their pixels."""
    rows, columns = kernel.shape
    padded = functional.pad(x, (columns // 2,) * 2 + (rows // 2,) * 2, mode="replicate")
    weight = kernel.to(x).expand(x.shape[1], 1, rows, columns)
    return functional.conv2d(padded, weight, groups=x.shape[1])


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (line / max(sigma, 1e-3)) ** 2)
    line = line / line.sum()
    return _filtered(_filtered(x, line[None]), line[:, None])


def _disc(radius: float) -> Tensor:
    """A disc's share of every pixel, by 9 × 9 points a pixel; sums to 1."""
    reach = max(1, math.ceil(radius))
    inner = (torch.arange(9, dtype=torch.float64) - 4) / 9
    line = (torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None] + inner).flatten()
    inside = (line[:, None] ** 2 + line**2 <= radius**2).double()
    side = 2 * reach + 1
    kernel = inside.reshape(side, 9, side, 9).mean((1, 3))
    return kernel / kernel.sum()


def defocus_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    radius = (0.6, 0.8, 1.0, 1.3, 1.6)[severity - 1] * _scale(x)
    return _filtered(x, _disc(radius))


def glass_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Blurred, every pixel read from a random neighbour, blurred again."""
    sigma, times = ((0.3, 1), (0.4, 1), (0.5, 1), (0.5, 2), (0.6, 3))[severity - 1]
    x = _gaussian(x, sigma * _scale(x))
    reach = round(_scale(x))
    for _ in range(times):
        shift = torch.randint(-reach, reach + 1, (2, len(x), *x.shape[2:]), generator=generator)
        rows = (torch.arange(x.shape[2])[:, None] + shift[0]).clamp(0, x.shape[2] - 1)
        columns = (torch.arange(x.shape[3]) + shift[1]).clamp(0, x.shape[3] - 1)
        place = (rows * x.shape[3] + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        x = x.flatten(2).gather(2, place).reshape(x.shape)
    return _gaussian(x, sigma * _scale(x))


def _sampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pictures read at places in pixels [sample, row, column], linearly; borders repeat."""
    height, width = x.shape[2:]
    across = 2 * columns / max(1, width - 1) - 1 if width > 1 else torch.zeros_like(columns)
    down = 2 * rows / max(1, height - 1) - 1 if height > 1 else torch.zeros_like(rows)
    grid = torch.stack([across, down], -1)
    return functional.grid_sample(x, grid, "bilinear", "border", align_corners=True)


def _places(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(x.shape[2], dtype=torch.float64)[:, None].expand(x.shape[2:])
    columns = torch.arange(x.shape[3], dtype=torch.float64).expand(x.shape[2:])
    return rows.expand(len(x), -1, -1), columns.expand(len(x), -1, -1)


def _smeared(x: Tensor, angle: Tensor, reach: float, sigma: float) -> Tensor:
    """Averaged with what lies up to `reach` pixels behind along an angle, weights Gaussian."""
    rows, columns = _places(x)
    total, weights = torch.zeros_like(x), 0.0
    for step in range(math.ceil(reach) + 1):
        weight = math.exp(-0.5 * (step / sigma) ** 2)
        down, across = (step * f(angle)[:, None, None] for f in (torch.sin, torch.cos))
        total = total + weight * _sampled(x, rows + down, columns + across)
        weights += weight
    return total / weights


def motion_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    reach, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[severity - 1]
    angle = 2 * math.pi * _uniform((len(x),), generator)
    return _smeared(x, angle, reach * _scale(x), sigma * _scale(x))


def zoom_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Averaged with itself, enlarged by up to so much."""
    most = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    rows, columns = _places(x)
    middle = (x.shape[2] - 1) / 2, (x.shape[3] - 1) / 2
    factors = torch.arange(1.0, most, 0.01, dtype=torch.float64).tolist()
    zoomed = [
        _sampled(x, middle[0] + (rows - middle[0]) / f, middle[1] + (columns - middle[1]) / f)
        for f in factors
    ]
    return torch.stack(zoomed).mean(0)


# --- weather -------------------------------------------------------------------------------------


def _clouds(x: Tensor, power: float, generator: torch.Generator) -> Tensor:
    """Noise whose spectrum falls as 1 / f^power, from 0 to 1: [sample, 1, row, column]."""
    height, width = x.shape[2:]
    down = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    across = torch.fft.rfftfreq(width, dtype=torch.float64)
    frequency = (down**2 + across**2).sqrt().clamp(min=1 / max(height, width))
    noise = torch.fft.rfft2(_normal((len(x), 1, height, width), generator))
    field = torch.fft.irfft2(noise / frequency**power, s=(height, width))
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - low) / (high - low).clamp(min=1e-12)


def snow(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Streaks of white flakes over a paler picture."""
    mean, sd, least, kept = (
        (0.10, 0.2, 0.6, 0.95),
        (0.10, 0.2, 0.5, 0.90),
        (0.15, 0.3, 0.55, 0.90),
        (0.25, 0.3, 0.6, 0.85),
        (0.30, 0.3, 0.65, 0.80),
    )[severity - 1]
    flakes = mean + sd * _normal((len(x), 1, *x.shape[2:]), generator)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    angle = math.pi * (0.25 + 0.5 * _uniform((len(x),), generator))
    flakes = _smeared(flakes, angle, 3 * _scale(x), 2.0 * _scale(x))
    paler = torch.maximum(x, 1.5 * x.mean(1, keepdim=True) + 0.5)
    # Streaks from both sides, as in the benchmark.
    return kept * x + (1 - kept) * paler + flakes + flakes.flip(2, 3)


def frost(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Ice crystals in front of a darker picture."""
    kept, ice = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return kept * x + ice * _clouds(x, 1.0, generator)


def fog(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Bright clouds in front; what was white stays white."""
    thickness, power = ((0.2, 2.0), (0.5, 2.0), (0.75, 1.8), (1.0, 1.6), (1.5, 1.4))[severity - 1]
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * _clouds(x, power, generator)) * most / (most + thickness)


def brightness(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """The value of HSV raised: hue and saturation stay."""
    rise = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    value = x.amax(1, keepdim=True)
    brighter = (value + rise).clamp(max=1)
    return torch.where(value > 0, x * brighter / value.clamp(min=1e-12), rise)


# --- digital -------------------------------------------------------------------------------------


def contrast(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Every channel drawn towards its mean."""
    kept = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return mean + kept * (x - mean)


def elastic_transform(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Pixels read from places that are moved smoothly."""
    side = min(x.shape[2:])
    size = (0.02, 0.03, 0.045, 0.06, 0.08)[severity - 1] * side
    field = _gaussian(_normal((2 * len(x), 1, *x.shape[2:]), generator), 0.1 * side)
    field = field / field.std((2, 3), keepdim=True).clamp(min=1e-12) * size
    rows, columns = _places(x)
    return _sampled(x, rows + field[: len(x), 0], columns + field[len(x) :, 0])


def pixelate(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Fewer pixels, by the mean of the area of each."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]
    height, width = (max(1, int(share * side)) for side in x.shape[2:])
    smaller = functional.interpolate(x, (height, width), mode="area")
    return functional.interpolate(smaller, x.shape[2:], mode="nearest-exact")


# ITU T.81, table K.1: the steps of luminance at quality 50.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56), *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip


def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 numbers. [frequency, place]"""
    k = torch.arange(8, dtype=torch.float64)
    table = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) / 2
    table[0] /= math.sqrt(2)
    return table


def quality_steps(quality: int) -> Tensor:
    """Steps of the cosine coefficients at a quality, as libjpeg scales them. [8, 8]"""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = (torch.tensor(_LUMINANCE, dtype=torch.float64) * scale + 50).div(100).floor()
    return steps.clamp(1, 255).reshape(8, 8)


def jpeg_compression(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Cosine coefficients of 8 × 8 blocks rounded to the quality's steps; every channel alike."""
    steps, table = quality_steps((80, 65, 58, 50, 40)[severity - 1]), _cosines()
    height, width = x.shape[2:]
    padded = functional.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
    bytes_ = (padded * 255).round() - 128
    blocks = bytes_.unfold(2, 8, 8).unfold(3, 8, 8)
    coefficients = table @ blocks @ table.T
    rounded = (coefficients / steps).round() * steps
    back = table.T @ rounded @ table
    joined = back.permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return ((joined + 128).round().clamp(0, 255) / 255)[:, :, :height, :width]


PICTURES: dict[str, Damage] = {kind: globals()[kind] for kind in CORRUPTIONS}
