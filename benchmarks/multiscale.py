"""Does prediction at two scales keep what half resolution loses? On made streets of 1024x512, with their small signs and distant cars.

    python benchmarks/multiscale.py --out DIR [--seeds 3] [--budget 1500]

Two arms, of one field of view and one training length: ``two scales`` trains on crops of the full resolution, ``half`` is the same method
without the detail view, on images of half the size, enlarged again after translation. Held-out translations are read, at full resolution,
by one segmenter that was trained on photos (other scenes) with their labels; counted is the share of the pixels of small things that is
read as what they are. Small: a connected sign, person or car of at most 24 px in height. The ceiling is the same reading of real photos of
the very scenes; the floor is that of those photos after they went through half resolution.

What is there already is not made again, so that a stopped study goes on. Prints a table in Markdown, and writes figures.json and a picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image

import unflip
from unflip.data import streets
from unflip.networks.segmenter import Segmenter, SegmenterConfig
from unflip.recipes.demo import SETTINGS
from unflip.seeding import numpy_rng, torch_rng

WIDTH, HEIGHT = 1024, 512
TRAIN, TEST = 160, 24
SMALL = 24
THINGS = ("sign", "person", "car")
# the demo's networks and rate, which learn fast, without what is SRUNIT's
COMMON = (*(setting for setting in SETTINGS if not setting.startswith("robustness.")), "texture.taps=[down2]")
ARMS = {
    "two scales": ("256x128", ()),
    "half": ("128x64", ("multiscale=null", "detail.weight=0", "data.resize=512x256")),
}


def make(folder: Path) -> None:
    """Scenes for training (unpaired: no scene is in both domains) and for testing, the latter in both looks."""
    sets = (
        ("train/source", "render", 0, TRAIN, None),
        ("train/target", "photo", 10_000, TRAIN, "train/target_labels"),
        ("test/source", "render", 20_000, TEST, "test/labels"),
        ("test/photos", "photo", 20_000, TEST, None),
    )
    for name, look, first, count, labels in sets:
        if not (folder / name).is_dir() or len(list((folder / name).glob("*.png"))) < count:
            streets.write(folder / name, count=count, look=look, width=WIDTH, height=HEIGHT, first=first, labels=labels and folder / labels)


def read(path: Path) -> np.ndarray:
    """An image as ``(H, W, 3)`` uint8, or a palette label map as ``(H, W)``."""
    return np.asarray(Image.open(path))


def to_input(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def train_segmenter(data: Path, path: Path, steps: int, size: int = 128, batch: int = 4) -> Segmenter:
    """A small segmenter on crops of the target photos, half of them about a small thing, rare classes weighted up by the root of their
    rarity."""
    network = SegmenterConfig(width=16, halvings=3).build(len(streets.CLASSES), torch_rng(0, "segmenter"))
    if path.is_file():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval()
    photos = sorted((data / "train/target").glob("*.png"))
    pictures = [read(photo) for photo in photos]
    labels = [read(data / "train/target_labels" / photo.name) for photo in photos]
    things = [np.argwhere(np.any(list(small_things(each).values()), axis=0)) for each in labels]
    shares = np.bincount(np.concatenate([each.ravel() for each in labels]), minlength=len(streets.CLASSES)) / (TRAIN * WIDTH * HEIGHT)
    weights = torch.from_numpy((1 / np.sqrt(shares + 1e-4)).astype(np.float32))
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        random = numpy_rng(0, "crop", step)
        images, truth = [], []
        for k in random.integers(len(photos), size=batch):
            top, left = int(random.integers(HEIGHT - size)), int(random.integers(WIDTH - size))
            if len(things[k]) and random.random() < 0.5:
                corner = things[k][random.integers(len(things[k]))] - random.integers(size, size=2)
                top, left = int(np.clip(corner[0], 0, HEIGHT - size)), int(np.clip(corner[1], 0, WIDTH - size))
            window = slice(top, top + size), slice(left, left + size)
            images.append(to_input(pictures[k][window]))
            truth.append(torch.from_numpy(labels[k][window].astype(np.int64)))
        loss = F.cross_entropy(network(torch.cat(images)), torch.stack(truth), weights / weights.mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"segmenter: {step + 1} of {steps}, loss {loss.item():.3f}", flush=True)
    torch.save(network.state_dict(), path)
    return network.eval()


def small_things(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The pixels of connected signs, persons and cars of at most ``SMALL`` pixels in height: masks by name."""
    masks = {}
    for name in THINGS:
        parts, _ = scipy.ndimage.label(labels == streets.CLASSES.index(name))
        mask = np.zeros(labels.shape, bool)
        for number, box in enumerate(scipy.ndimage.find_objects(parts), start=1):
            if box[0].stop - box[0].start <= SMALL:
                mask[box] |= parts[box] == number
        masks[name] = mask
    return masks


def steepness(image: np.ndarray) -> np.ndarray:
    """The length of the gradient of an image's mean channel, ``(H, W)``."""
    return np.hypot(*np.gradient(image.mean(2)))


@torch.inference_mode()
def judge(
    segmenter: Segmenter, images: Sequence[np.ndarray], labels: Sequence[np.ndarray], sources: Sequence[np.ndarray]
) -> dict[str, float]:
    """The share of the pixels of small things read as what they are, by thing and in all; the pixel accuracy; and, read by nobody, the
    correlation of the source's edges with the image's, within 3 pixels of small things."""
    hits, counts, right, total = dict.fromkeys(THINGS, 0), dict.fromkeys(THINGS, 0), 0, 0
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    for image, truth, source in zip(images, labels, sources, strict=True):
        reading = segmenter(to_input(image))[0].argmax(0).numpy()
        right, total = right + int((reading == truth).sum()), total + truth.size
        masks = small_things(truth)
        near = scipy.ndimage.binary_dilation(np.any(list(masks.values()), axis=0), iterations=3)
        edges.append((steepness(source)[near], steepness(image)[near]))
        for name, mask in masks.items():
            hits[name] += int((reading[mask] == streets.CLASSES.index(name)).sum())
            counts[name] += int(mask.sum())
    found = {f"small {name}s": hits[name] / max(counts[name], 1) for name in THINGS}
    kept = np.corrcoef(*(np.concatenate(side) for side in zip(*edges, strict=True)))[0, 1]
    everything = sum(hits.values()) / sum(counts.values())
    return {**found, "small things": everything, "edges of small things": float(kept), "pixel accuracy": right / total}


def picture(rows: dict[str, np.ndarray], path: Path, window: tuple[slice, slice]) -> None:
    """One window of every row, enlarged, below each other."""
    parts = [Image.fromarray(np.ascontiguousarray(image[window])) for image in rows.values()]
    parts = [part.resize((part.width * 3, part.height * 3), Image.Resampling.NEAREST) for part in parts]
    sheet = Image.new("RGB", (parts[0].width, sum(part.height + 4 for part in parts)), "white")
    for i, part in enumerate(parts):
        sheet.paste(part, (0, i * (part.height + 4)))
    sheet.save(path)


def main() -> None:
    """The study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=1_500)
    parser.add_argument("--segmenter-steps", type=int, default=1_500)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data = asked.out / "data"
    make(data)
    segmenter = train_segmenter(data, asked.out / "segmenter.pt", asked.segmenter_steps)

    names = [path.name for path in sorted((data / "test/source").glob("*.png"))]
    labels = [read(data / "test/labels" / name) for name in names]
    sources = [read(data / "test/source" / name) for name in names]
    photos = [read(data / "test/photos" / name) for name in names]
    halved = [
        np.asarray(Image.fromarray(photo).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BICUBIC).resize((WIDTH, HEIGHT)))
        for photo in photos
    ]
    figures: dict[str, list[dict[str, float]]] = {
        "photos": [judge(segmenter, photos, labels, sources)],
        "photos through half resolution": [judge(segmenter, halved, labels, sources)],
    }
    shown = {"source": sources[1], "photo": photos[1]}
    for seed in range(asked.seeds):
        for arm, (size, settings) in ARMS.items():
            run = asked.out / f"{arm.replace(' ', '_')}_{seed}"
            began = time.monotonic()
            config = unflip.configure(
                "semst",
                source=data / "train/source",
                target=data / "train/target",
                size=size,
                budget=asked.budget,
                seed=seed,
                device=asked.device,
                settings=[*COMMON, *settings],
            )
            unflip.train(config, run, resume=(run / "config.yaml").is_file())
            translator = unflip.load(run, device=asked.device)
            images = [translator(source) for source in sources]
            result = judge(segmenter, images, labels, sources)
            figures.setdefault(arm, []).append(result)
            if seed == 0:
                shown[arm] = images[1]
            print(f"{arm}, seed {seed}: {result}, {time.monotonic() - began:.0f} s", flush=True)
    (asked.out / "figures.json").write_text(json.dumps({"budget": asked.budget, "figures": figures}, indent=1))
    picture(shown, asked.out / "picture.png", (slice(220, 320), slice(280, 680)))

    columns = list(figures["photos"][0])
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for arm, results in figures.items():
        cells = []
        for column in columns:
            values = [result[column] for result in results]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        print(f"| {arm} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
