"""The paper's own reading, against a second CLIP and AA-CLIP written out in plain torch from the state dict."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.testing import assert_close
from towers import TOY_TOWER, toy_state

from aaclip_med import build_detector
from aaclip_med.errors import InputError
from aaclip_med.model.build import settle_activation
from aaclip_med.model.config import DetectorConfig, Fidelity
from aaclip_med.model.detector import ImageFeatures
from aaclip_med.presets import build_prompts
from aaclip_med.training.stages import StagePrediction, TextLoss, TextStage

LEVELS = (2, 4, 6, 8)
PLAIN_BLOCKS = 2
NOUN = "brain MRI"


def gelu(x):
    return x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


class Oracle:
    """One image or text at a time, one head at a time: tokens are (L, D)."""

    def __init__(self, detector, activation):
        self.weights = {name: tensor.double() for name, tensor in toy_state().items()}
        self.adapters = {name: tensor.double() for name, tensor in detector.adapter_state().items()}
        self.activate = ACTIVATIONS[activation]

    def norm(self, x, name):
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def attend(self, x, name, causal=False, values_only=False):
        projected = x @ self.weights[f"{name}.in_proj_weight"].T + self.weights[f"{name}.in_proj_bias"]
        query, key, value = projected.split(x.shape[1], dim=1)
        if values_only:
            query = key = value
        heads = []
        for q, k, v in zip(query.chunk(2, dim=1), key.chunk(2, dim=1), value.chunk(2, dim=1), strict=True):
            scores = q @ k.T / q.shape[1] ** 0.5
            if causal:
                scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
            weights = torch.exp(scores - scores.amax(dim=1, keepdim=True))
            heads.append(weights / weights.sum(dim=1, keepdim=True) @ v)
        return self.linear(torch.cat(heads, dim=1), f"{name}.out_proj")

    def feed(self, x, block):
        hidden = self.activate(self.linear(self.norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        return x + self.linear(hidden, f"{block}.mlp.c_proj")

    def block(self, x, block, **options):
        return self.feed(x + self.attend(self.norm(x, f"{block}.ln_1"), f"{block}.attn", **options), block)

    def mixed(self, x, adapter):
        adapted = x @ self.adapters[f"{adapter}.fc.0.weight"].T
        adapted = torch.where(adapted > 0, adapted, 0.01 * adapted)
        return 0.1 * unit(adapted) * x.norm(dim=-1, keepdim=True) + 0.9 * x

    def embed(self, image):
        kernel = self.weights["visual.conv1.weight"]
        patches = [
            (kernel * image[:, row : row + 4, column : column + 4]).sum(dim=(1, 2, 3))
            for row in range(0, 20, 4)
            for column in range(0, 20, 4)
        ]
        tokens = torch.stack([self.weights["visual.class_embedding"], *patches])
        return self.norm(tokens + self.weights["visual.positional_embedding"], "visual.ln_pre")

    def project(self, x):
        return unit(self.norm(x, "visual.ln_post") @ self.weights["visual.proj"])

    def image_features(self, image):
        x, levels = self.embed(image), []
        for number in range(1, 9):
            x = self.block(x, f"visual.transformer.resblocks.{number - 1}")
            if number <= 2:
                x = self.mixed(x, f"image_adapter.layer_adapters.{number - 1}")
            if number in LEVELS:
                normed = self.norm(x[1:], "visual.ln_post")
                levels.append(unit(normed @ self.adapters[f"image_adapter.seg_proj.{len(levels)}.fc.weight"].T))
        return levels, unit(normed @ self.adapters["image_adapter.det_proj.fc.weight"].T).mean(dim=0)

    def value_features(self, images, direction):
        plain = [self.embed(image) for image in images]
        values, levels = plain, []
        for number in range(1, 9):
            name = f"visual.transformer.resblocks.{number - 1}"
            plain = [self.block(x, name) for x in plain]
            if number <= PLAIN_BLOCKS:
                values = plain
            elif direction == "across_positions":
                values = [self.block(x, name, values_only=True) for x in values]
            else:
                stacked = torch.stack(values)
                attended = torch.stack(
                    [
                        self.attend(self.norm(stacked[:, position], f"{name}.ln_1"), f"{name}.attn", values_only=True)
                        for position in range(stacked.shape[1])
                    ],
                    dim=1,
                )
                values = [self.feed(x + a, name) for x, a in zip(values, attended, strict=True)]
            if number in LEVELS:
                levels.append([self.project(x[1:]) for x in values])
        embeddings = [self.project(x[0]) for x in plain]
        summed = [torch.stack([p + e for p, e in zip(level, embeddings, strict=True)]) for level in levels]
        return summed, torch.stack(embeddings)

    def anchors(self, noun):
        columns = []
        for prompts in build_prompts(noun):
            embeddings = []
            for ids in open_clip.tokenize(prompts):
                ids = ids[: int(ids.argmax()) + 1]
                x = self.weights["token_embedding.weight"][ids] + self.weights["positional_embedding"][: len(ids)]
                for number in range(1, 5):
                    x = self.block(x, f"transformer.resblocks.{number - 1}", causal=True)
                    if number == 1:
                        x = self.mixed(x, "text_adapter.0")
                end = self.norm(x[-1], "ln_final") @ self.adapters["text_adapter.1.fc.0.weight"].T
                embeddings.append(unit(torch.where(end > 0, end, 0.01 * end)))
            columns.append(unit(torch.stack(embeddings).mean(dim=0)))
        return torch.stack(columns, dim=1)


def level_loss(patches, anchors, mask):
    """Focal and the two Dice terms of one level, (B, 25, E) against (E, 2) and (B, 20, 20)."""
    total = 0.0
    logits = (100.0 * patches @ anchors).transpose(1, 2).reshape(-1, 2, 5, 5)
    logits = torch.nn.functional.interpolate(logits, size=(20, 20), mode="bilinear", align_corners=True)
    odds = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    normal, abnormal = (odds / odds.sum(dim=1, keepdim=True)).unbind(dim=1)
    smooth = mask.clamp(1e-5, 1.0 - 1e-5)
    likely = smooth * abnormal + (1.0 - smooth) * normal + 1e-5
    total = (-((1.0 - likely) ** 2) * likely.log()).mean()
    for probability, target in ((normal, 1.0 - mask), (abnormal, mask)):
        overlap, sizes = (probability * target).sum(dim=(1, 2)), (probability + target).sum(dim=(1, 2))
        total = total + (1.0 - (2.0 * overlap + 1.0) / (sizes + 1.0)).mean()
    return total


def stage_one_loss(levels, anchors, mask, chosen):
    used = levels if chosen == "all" else levels[-1:]
    return sum(level_loss(level, anchors, mask) for level in used) + 0.1 * (anchors[:, 0] @ anchors[:, 1]) ** 2


def build(**options):
    return build_detector(TOY_TOWER, toy_state(), **options).double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def target():
    mask = torch.zeros(2, 1, 20, 20, dtype=torch.float64)
    mask[0, 0, 4:11, 6:15] = 1.0
    return {"mask": mask, "label": torch.tensor([1, 0])}


CASES = {
    "paper": ({"fidelity": "paper"}, ("quick_gelu", "all", "across_positions")),
    "reference": ({}, ("gelu", "last", "across_batch")),
    "reference, quick_gelu": ({"activation": "quick_gelu"}, ("quick_gelu", "last", "across_batch")),
    "reference, all levels": ({"stage_one_levels": "all"}, ("gelu", "all", "across_batch")),
    "reference, across positions": ({"value_attention": "across_positions"}, ("gelu", "last", "across_positions")),
}


@pytest.mark.parametrize(("options", "meaning"), CASES.values(), ids=list(CASES))
def test_towers_value_attention_and_stage_one_loss_are_the_oracles(options, meaning, images, target):
    activation, chosen, direction = meaning
    detector = build(**options)
    oracle = Oracle(detector, activation)
    with torch.no_grad():
        features = detector.encode_image(images)
        prediction = TextStage(detector).eval()(images, [NOUN, NOUN])
        loss = TextLoss(detector)(prediction, target)
    for number, image in enumerate(images):
        levels, detection = oracle.image_features(image)
        for found, wanted in zip(features.levels, levels, strict=True):
            assert_close(found[number], wanted, rtol=0, atol=1e-5)
        assert_close(features.detection[number], detection, rtol=0, atol=1e-5)
    levels, embedding = oracle.value_features(images, direction)
    for found, wanted in zip(prediction.levels, levels, strict=True):
        assert_close(found, wanted, rtol=0, atol=1e-5)
    assert_close(prediction.detection, embedding, rtol=0, atol=1e-5)
    anchors = oracle.anchors(NOUN)
    assert_close(prediction.anchors[1], anchors, rtol=0, atol=1e-5)
    assert loss.item() == pytest.approx(stage_one_loss(levels, anchors, target["mask"][:, 0], chosen).item(), rel=1e-4)


def same(one, other):
    return all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(flatten(one), flatten(other), strict=True))


def flatten(found):
    return [*found.levels, found.detection] if isinstance(found, ImageFeatures) else [found]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"activation": "gelu"}, set()),
        ({"activation": "quick_gelu"}, {"image", "value image", "anchors"}),
        ({"stage_one_levels": "all"}, {"loss"}),
        ({"value_attention": "across_positions"}, {"value image"}),
    ],
)
def test_an_option_changes_its_own_part_alone(options, changed, images, target):
    generator = torch.Generator().manual_seed(2)
    levels = [torch.randn(2, 25, 32, generator=generator, dtype=torch.float64) for _ in LEVELS]
    anchors = unit(torch.randn(2, 2, 32, generator=generator, dtype=torch.float64)).transpose(1, 2)
    prediction = StagePrediction(levels, anchors, levels[0].mean(dim=1))

    def run(detector):
        with torch.no_grad():
            return {
                "image": detector.encode_image(images),
                "value image": detector.encode_value_image(images),
                "anchors": detector.encode_noun(NOUN),
                "loss": TextLoss(detector)(prediction, target),
            }

    plain, other = run(build()), run(build(**options))
    assert {part for part in plain if not same(plain[part], other[part])} == changed


def test_a_batch_of_one_reduces_the_released_value_attention_to_the_value_path(images):
    detector = build()
    state = {name: tensor.double() for name, tensor in toy_state().items()}
    with torch.no_grad():
        found = detector.encode_value_image(images[:1])
    oracle = Oracle(detector, "gelu")
    x = oracle.embed(images[0])
    for number in range(8):
        name = f"visual.transformer.resblocks.{number}"
        if number < PLAIN_BLOCKS:
            x = oracle.block(x, name)
        else:
            values = oracle.norm(x, f"{name}.ln_1") @ state[f"{name}.attn.in_proj_weight"][128:].T
            values = values + state[f"{name}.attn.in_proj_bias"][128:]
            x = oracle.feed(x + oracle.linear(values, f"{name}.attn.out_proj"), name)
    assert_close(found.levels[-1][0], oracle.project(x[1:]) + found.detection[0], rtol=0, atol=1e-5)


def settle(backbone, weights="state dict", **options):
    return settle_activation(DetectorConfig(backbone, weights, fidelity=Fidelity.named("paper", **options)))


def test_as_trained_takes_the_configurations_word():
    assert settle({**TOY_TOWER, "quick_gelu": True}) == "quick_gelu"
    assert settle({**TOY_TOWER, "quick_gelu": False}) == "gelu"
    assert settle("tiny", "tiny") == "gelu"


def test_as_trained_is_quick_gelu_where_nothing_is_said():
    silent = {key: value for key, value in TOY_TOWER.items() if key != "quick_gelu"}
    assert settle(silent) == "quick_gelu"
    assert settle("ViT-B-32", "some/file.pt") == "quick_gelu"


def test_as_trained_takes_the_tags_word():
    assert settle("ViT-B-32", "openai") == "quick_gelu"
    assert settle("ViT-L-14-336", "openai") == "quick_gelu"
    assert settle("ViT-B-32", "laion2b_s34b_b79k") == "gelu"
    assert settle("ViT-B-32-quickgelu", "laion400m_e31") == "quick_gelu"


def test_a_chosen_activation_overrides_tag_and_configuration():
    assert settle("ViT-B-32", "openai", activation="gelu") == "gelu"
    assert settle({**TOY_TOWER, "quick_gelu": False}, activation="quick_gelu") == "quick_gelu"


@pytest.mark.parametrize("option", ["activation", "stage_one_levels", "value_attention"])
def test_an_unknown_option_lists_the_known_ones(option):
    with pytest.raises(InputError, match=rf"unknown {option} 'nonsense'; choose one of .*, "):
        build(**{option: "nonsense"})
