"""Pretrains the embedded tower from scratch on captioned pictures: python -m scripts.pretrain_tiny --out RUN

Both towers of ``tiny`` start from its own random weights and learn as CLIP does: open_clip's contrastive loss between pictures
and captions; and each patch learns which of two captions it shows, that of a defect or that of what is around. ``RUN`` gets
``weights.safetensors``, for ``--backbone tiny --weights FILE``, ``log.jsonl``, and ``checkpoint.pt``, from which the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from aaclip_med.model.config import CLIP_MEAN, CLIP_STD, TINY, TINY_TOWER
from aaclip_med.model.towers import Tower, build_tower
from aaclip_med.model.weights import find_state, load_tower
from aaclip_med.presets import build_prompts
from scripts.captioned_pictures import DEFECTS, WINDOW, Pictures, draw_pictures

LEVELS = (2, 3, 4)
"""The blocks whose patch tokens are compared with captions."""
LARGEST_SCALE = math.log(100)
BETAS = (0.9, 0.98)
NOUN = "scan"


def main() -> None:
    """Pretrain, log, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pretrain(options.out, options.steps, options.batch_size, options.learning_rate, options.log_every, options.seed)


def pretrain(out: Path, steps: int, batch_size: int, learning_rate: float, log_every: int, seed: int) -> Path:
    """Train for ``steps`` in all, from where ``out`` was left; returns the weights' path."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tower = build_trainable()
    optimizer = torch.optim.Adam(tower.clip.parameters(), lr=learning_rate, betas=BETAS)
    checkpoint = out / "checkpoint.pt"
    first = 0
    if checkpoint.is_file():
        kept = torch.load(checkpoint, weights_only=True)
        tower.clip.load_state_dict(kept["clip"])
        optimizer.load_state_dict(kept["optimizer"])
        first = kept["step"]
    started, losses = time.monotonic(), []
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * scale_rate(step, steps)
        pictures = draw_pictures(batch_size, np.random.default_rng([seed, 1, step]))
        whole, patch = compare(tower, pictures)
        optimizer.zero_grad()
        torch.autograd.backward(whole + patch)
        torch.nn.utils.clip_grad_norm_(tower.clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            tower.clip.logit_scale.clamp_(0.0, LARGEST_SCALE)
        losses.append((whole.item(), patch.item()))
        if (step + 1) % log_every == 0 or step + 1 == steps:
            means = np.mean(losses, axis=0)
            entry: dict[str, Any] = {"step": step + 1, "seconds": round(time.monotonic() - started, 1)}
            entry |= {"loss_whole": float(means[0]), "loss_patch": float(means[1])}
            entry |= measure(tower, draw_pictures(256, np.random.default_rng([seed, 2])))
            losses = []
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            print(" ".join(f"{name} {value:.4g}" for name, value in entry.items()), flush=True)
            fresh = checkpoint.with_suffix(".part")
            kept = {"clip": tower.clip.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(kept, fresh)
            fresh.replace(checkpoint)
            save_weights(tower, out / "weights.safetensors")
    return out / "weights.safetensors"


def build_trainable() -> Tower:
    """``tiny`` with its random weights, all of them trainable."""
    tower = build_tower(TINY, TINY_TOWER["vision_cfg"]["image_size"], "gelu")
    load_tower(tower, find_state(TINY, TINY, tower), TINY)
    return tower.requires_grad_(True)


def scale_rate(step: int, steps: int) -> float:
    """A twentieth of the steps of warm-up, then a cosine to 0."""
    warm = max(1, steps // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1.0 + math.cos(math.pi * max(0, step - warm) / max(1, steps - warm)))


def compare(tower: Tower, pictures: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP's loss of pictures against captions; and the cross entropy of each patch, after each of ``LEVELS``, between the
    caption of its picture's defect and that of what is around. Both kinds of patches weigh alike; those on an edge do
    not count.
    """
    with torch.autocast("cpu", torch.bfloat16):
        embedding, taps = encode_pictures(tower, pictures, LEVELS)
        texts = encode_texts(tower, [*pictures.captions, *pictures.defect_captions, *pictures.around_captions])
    captions, *sides = texts.chunk(3)
    covered = cover_patches(pictures)
    contrast = torch.einsum("sble,be->sbl", torch.stack(taps), sides[0] - sides[1]) * tower.clip.logit_scale.exp()
    entropies = contrast.new_zeros(())
    for kind, sign in ((covered > 0.5, -1.0), (covered == 0.0, 1.0)):
        entropies = entropies + functional.softplus(sign * contrast[:, kind]).sum() / (len(LEVELS) * max(1, int(kind.sum())))
    return ClipLoss()(embedding, captions, tower.clip.logit_scale.exp()), entropies


def cover_patches(pictures: Pictures) -> torch.Tensor:
    """The share of each patch that the defect covers: (B, L)."""
    side = math.isqrt(pictures.patches.shape[1])
    return functional.avg_pool2d(pictures.masks, WINDOW // side).flatten(1)


def encode_pictures(tower: Tower, pictures: Pictures, levels: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Unit embeddings of the pictures, (B, E), and of their patches after each of the blocks ``levels``, (B, L, E) each."""
    visual = tower.clip.visual
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    patches = visual.conv1((pictures.images - mean) / std).flatten(2).transpose(1, 2)
    place = visual.positional_embedding
    first = (visual.class_embedding + place[0]).expand(len(patches), 1, -1)
    tokens = visual.ln_pre(torch.cat([first, patches + place[1 + pictures.patches]], dim=1))
    taps = []
    for number, block in enumerate(tower.vision_blocks, start=1):
        tokens = block(tokens)
        if number in levels:
            taps.append(functional.normalize(tower.project_patches(tokens[:, 1:]).float(), dim=-1))
    return functional.normalize(tower.project_patches(tokens[:, 0]).float(), dim=-1), taps


def encode_texts(tower: Tower, texts: list[str]) -> torch.Tensor:
    """Unit embeddings (N, E). Attention is causal, so what follows the longest text is left out."""
    names, places = np.unique(texts, return_inverse=True)
    tokens = open_clip.tokenize(names.tolist(), tower.clip.context_length)
    tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    mask = tower.clip.attn_mask[: tokens.shape[1], : tokens.shape[1]]
    hidden = tower.clip.transformer(tower.embed_texts(tokens), attn_mask=mask)
    embeddings = tower.pool_texts(hidden, tokens) @ tower.clip.text_projection
    return functional.normalize(embeddings.float(), dim=-1)[torch.from_numpy(places.reshape(-1))]


@torch.inference_mode()
def measure(tower: Tower, pictures: Pictures) -> dict[str, float]:
    """Zero-shot figures of pictures that are not trained on: how often one finds its caption among all, or the name of its
    defect; AUROC of pictures and of patches by the package's own prompts for normal and abnormal.
    """
    embedding, (patches,) = encode_pictures(tower, pictures, (tower.vision_depth,))
    captions = encode_texts(tower, pictures.captions)
    normal, abnormal = (
        functional.normalize(encode_texts(tower, prompts).mean(dim=0), dim=0) for prompts in build_prompts(NOUN)
    )
    named = encode_texts(tower, [f"a {NOUN} with a {name}." for name in DEFECTS])
    found = (embedding @ captions.T).argmax(dim=1)
    same = [pictures.captions[int(place)] == caption for place, caption in zip(found, pictures.captions, strict=True)]
    there = pictures.defects >= 0
    kinds = (embedding[there] @ named.T).argmax(dim=1) == pictures.defects[there]
    covered = cover_patches(pictures)
    clear = (covered == 0) | (covered > 0.5)
    contrast = abnormal - normal
    return {
        "caption_found": float(np.mean(same)),
        "defect_named": float(kinds.float().mean()),
        "picture_auroc": float(roc_auc_score(there.numpy(), (embedding @ contrast).numpy())),
        "patch_auroc": float(roc_auc_score((covered > 0.5)[clear].numpy(), (patches @ contrast)[clear].numpy())),
    }


def save_weights(tower: Tower, path: Path) -> None:
    """The weights in half precision."""
    save_file({name: tensor.detach().half().contiguous() for name, tensor in tower.clip.state_dict().items()}, path)


if __name__ == "__main__":
    main()
