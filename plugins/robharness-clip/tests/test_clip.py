"""Zero-shot logits and image features, compared with open_clip's own code on networks with random weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip import transform
from torch.nn import functional as F
from torchvision.transforms.v2.functional import normalize

from robharness import UserError
from robharness_clip import networks, options, robharness_models, tables

SPECS = {spec.name: spec for spec in robharness_models()}
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
RESNET = {**CONFIG, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64}}
TIMM = {**CONFIG, "custom_text": True, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160,
                                                      "timm_pool": "", "timm_proj": "linear"}}  # fmt: skip
ANIMALS = ("cat", "great white shark", "T-shirt", "drake", "the very long name of a class, such as ImageNet's are")
TEMPLATES = ("a photo of a {}.", "a {} in a video game.", "{}")


def built(config, seed=0, quick=False):
    """Return open_clip's network with random weights, and a logit scale of a file."""
    given, generator = {**config, "quick_gelu": quick}, torch.Generator().manual_seed(seed)
    kind = open_clip.CustomTextCLIP if given.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        net = kind(**given).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("weight", "running_var")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                value.normal_(0, 0.1, generator=generator)
        net.logit_scale.fill_(3.0)
    return net


def theirs(net, x, names, templates):
    """Return the logits by open_clip's own zero-shot code, as its README writes it."""
    classifier = open_clip.build_zero_shot_classifier(net, open_clip.SimpleTokenizer(), names, templates)
    with torch.no_grad():
        features = net.encode_image(normalize(x, MEAN, STD))
        return net.logit_scale.exp() * F.normalize(features, dim=-1) @ classifier


def same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5 * float(expected.max() - expected.min()))


def differ(ours, expected):
    assert float((ours - expected).abs().max()) > 1e-3 * float(expected.max() - expected.min())


def logits(net, x):
    with torch.inference_mode():
        return net.eval()(x)


@pytest.fixture(scope="module")
def x():
    return torch.empty(3, 3, 32, 32).uniform_(generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a configuration, a file of open_clip's, and a file of RobustVLM's."""
    path = tmp_path_factory.mktemp("clip")
    (path / "tiny.json").write_text(json.dumps(CONFIG))
    net = built(CONFIG)
    torch.save(net.state_dict(), path / "open_clip_pytorch_model.bin")
    torch.save(built(CONFIG, seed=1).visual.state_dict(), path / "fare_eps_2.pt")
    return path


@pytest.fixture(scope="module")
def net():
    return built(CONFIG)


def params(folder, **given):
    given = {
        "config": folder / "tiny.json",
        "classnames": ANIMALS,
        "labels": "animals",
        "templates": TEMPLATES,
        **given,
    }
    return options.ZeroShot(**given)


def zero_shot(folder, weights="open_clip_pytorch_model.bin", **given):
    files = {key: folder / file for key, file in weights.items()} if isinstance(weights, dict) else folder / weights
    return SPECS["zero-shot"].build(params(folder, **given), files)


@pytest.mark.parametrize("templates", ["openai-imagenet", "simple", TEMPLATES, ("{}",)])
def test_logits_are_those_of_open_clips_zero_shot_code(folder, net, x, templates):
    own = {"openai-imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
    expected = theirs(net, x, ANIMALS, own.get(templates, templates))
    ours = zero_shot(folder, templates=templates)
    same(logits(ours, x), expected)
    same(logits(ours[1], normalize(x, MEAN, STD)), expected)
    differ(logits(ours[1], x), expected)  # without CLIP's mean and std
    differ(logits(zero_shot(folder, templates=templates, normalize="imagenet"), x), expected)
    other = ("{}",) if templates != ("{}",) else TEMPLATES
    differ(logits(zero_shot(folder, templates=other), x), expected)


def test_the_classes_of_imagenet_are_open_clips_in_its_order(folder, net, x):
    ours = zero_shot(folder, classnames="imagenet", labels="imagenet-1k", templates=("{}",))
    same(logits(ours, x), theirs(net, x, open_clip.IMAGENET_CLASSNAMES, ["{}"]))


def test_class_names_may_be_lines_of_a_file(folder, net, x):
    (folder / "animals.txt").write_text("\n".join(ANIMALS) + "\n")
    same(logits(zero_shot(folder, classnames=folder / "animals.txt"), x), theirs(net, x, ANIMALS, TEMPLATES))


def test_the_logit_scale_changes_margins_and_no_prediction(folder, x):
    published, one = zero_shot(folder), zero_shot(folder, logit_scale=1.0)
    same(logits(published, x), logits(one, x) * torch.tensor(3.0).exp())
    assert torch.equal(logits(published, x).argmax(1), logits(one, x).argmax(1))
    differ(logits(published, x), logits(one, x))


def test_the_head_is_linear_in_features_of_length_1_and_the_text_tower_is_gone(folder, net, x):
    ours, seen = zero_shot(folder), []
    ours.get_submodule(SPECS["zero-shot"].features).register_forward_hook(lambda module, inputs, out: seen.append(out))
    found = logits(ours, x)
    same(seen[0], net.encode_image(normalize(x, MEAN, STD), normalize=True).detach())
    same(seen[0] @ ours[1].head.weight.detach().T, found)
    assert all(name.startswith(("0.", "1.visual.", "1.head.")) for name in ours.state_dict())
    kept = sum(value.numel() for value in ours.parameters())
    assert kept == sum(value.numel() for value in net.visual.parameters()) + len(ANIMALS) * CONFIG["embed_dim"]


def test_gradients_reach_the_pixels(folder, x):
    pixels = x.clone().requires_grad_()
    zero_shot(folder)(pixels).logsumexp(1).sum().backward()
    assert float(pixels.grad.abs().amax(dim=(1, 2, 3)).min()) > 0


@pytest.mark.parametrize(
    ("config", "size"), [(RESNET, 32), (TIMM, 160), ({**CONFIG, "custom_text": True}, 32)], ids=["RN", "timm", "custom"]
)
def test_other_towers_give_open_clips_logits(tmp_path, config, size):
    net = built(config)
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    x = torch.empty(2, 3, size, size).uniform_(generator=torch.Generator().manual_seed(7))
    expected = theirs(net, x, ANIMALS, TEMPLATES)
    same(logits(zero_shot(tmp_path, "a.pt"), x), expected)
    if config.get("custom_text"):  # files of before the text tower was a module of its own
        old = {re.sub(r"^text\.", "", key): value for key, value in net.state_dict().items()}
        torch.save(old, tmp_path / "old.pt")
        same(logits(zero_shot(tmp_path, "old.pt"), x), expected)


@pytest.mark.parametrize("masked", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_a_text_tower_that_sees_what_follows_keeps_its_length(tmp_path, x, masked):
    config = {**CONFIG, "custom_text": True, "text_cfg": {**CONFIG["text_cfg"], "context_length": 20, **masked}}
    net = built(config)
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    torch.save(net.state_dict(), tmp_path / "a.pt")
    tokenizer = open_clip.SimpleTokenizer(context_length=20)
    classifier = open_clip.build_zero_shot_classifier(net, tokenizer, ANIMALS, TEMPLATES)
    features = net.encode_image(normalize(x, MEAN, STD), normalize=True).detach()
    same(logits(zero_shot(tmp_path, "a.pt"), x), net.logit_scale.exp().detach() * features @ classifier)


def test_texts_are_cut_at_their_end_which_changes_nothing(net):
    texts = open_clip.SimpleTokenizer()(["a photo of a cat.", "cat", "a bad photo of a great white shark.", "dog"])
    tower, seen = networks.TextTower(built(CONFIG)), []
    tower.net.token_embedding.register_forward_hook(lambda module, inputs, out: seen.append(tuple(out.shape[:2])))
    with torch.inference_mode():
        same(tower.encode_text(texts, normalize=True), net.encode_text(texts, normalize=True))
    assert seen == [(2, 3), (1, 8), (1, 11)]  # of four texts of 77 positions


# --- layouts of files -------------------------------------------------------------------------------------------------


def test_files_of_open_clips_training_and_of_openai_load(folder, net, x):
    expected = theirs(net, x, ANIMALS, TEMPLATES)
    parallel = {f"module.{key}": value for key, value in net.state_dict().items()}
    training = {"epoch": 3, "name": "run", "state_dict": parallel, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(training, folder / "epoch_3.pt")
    same(logits(zero_shot(folder, "epoch_3.pt"), x), expected)
    halves = {key: value.half() if value.ndim > 1 else value for key, value in net.state_dict().items()}
    numbers = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    torch.save({**halves, **numbers}, folder / "openai.pt")
    half = built(CONFIG)
    half.load_state_dict({key: value.float() for key, value in halves.items()})
    same(logits(zero_shot(folder, "openai.pt"), x), theirs(half, x, ANIMALS, TEMPLATES))
    scale = {**net.state_dict(), "logit_scale": net.logit_scale.detach().reshape(1)}
    torch.save(scale, folder / "scale.pt")
    same(logits(zero_shot(folder, "scale.pt"), x), expected)


def test_a_robust_image_tower_gets_the_text_tower_of_the_original(folder, net, x):
    robust = built(CONFIG)
    robust.visual.load_state_dict(built(CONFIG, seed=1).visual.state_dict())  # as RobustVLM's README does
    expected = theirs(robust, x, ANIMALS, TEMPLATES)
    files = {"clip": "open_clip_pytorch_model.bin", "visual": "fare_eps_2.pt"}
    same(logits(zero_shot(folder, files), x), expected)
    torch.save({"vision_encoder_state_dict": robust.visual.state_dict(), "epoch": 1}, folder / "tecoa.pt")
    same(logits(zero_shot(folder, {**files, "visual": "tecoa.pt"}), x), expected)
    differ(theirs(net, x, ANIMALS, TEMPLATES), expected)


def test_the_image_tower_alone_gives_open_clips_features(folder, net, x):
    given = options.Visual(config=folder / "tiny.json")
    both = SPECS["visual"].build(given, folder / "open_clip_pytorch_model.bin")
    same(logits(both, x), net.encode_image(normalize(x, MEAN, STD), normalize=True).detach())
    robust = SPECS["visual"].build(given, folder / "fare_eps_2.pt")
    same(logits(robust, x), F.normalize(built(CONFIG, seed=1).visual(normalize(x, MEAN, STD)), dim=-1).detach())
    assert SPECS["visual"].labels == "none" and SPECS["visual"].features == ""
    same(logits(SPECS["zero-shot"].trunk(params(folder), folder / "fare_eps_2.pt"), x), logits(robust, x))


def test_quickgelu_follows_the_published_weights(folder, net, x):
    quick = built(CONFIG, quick=True)
    expected = theirs(quick, x, ANIMALS, TEMPLATES)
    same(logits(zero_shot(folder, quickgelu=True), x), expected)
    differ(logits(zero_shot(folder), x), expected)
    name = {"name": "ViT-B-32"}
    for pretrained, wanted in (("openai", True), ("laion2b_s34b_b79k", False), ("fare4", True), (None, False)):
        assert networks.configuration(options.Visual(**name, pretrained=pretrained))["quick_gelu"] is wanted
    assert networks.configuration(options.Visual(name="ViT-B-32-quickgelu"))["quick_gelu"] is True
    assert networks.configuration(options.Visual(**name, pretrained="openai", quickgelu=False))["quick_gelu"] is False


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.pop("visual.proj"), r"1 keys are missing: visual\.proj"),
        (lambda s: s.pop("logit_scale"), r"1 keys are missing: logit_scale"),
        (lambda s: s.update({"visual.extra": s["visual.proj"]}), r"1 keys are unexpected: visual\.extra"),
        (lambda s: s.update({"visual.proj": torch.zeros(3, 3)}), r"visual\.proj \(3, 3\) instead of \(64, 24\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_names(folder, net, change, sentence):
    state = dict(net.state_dict())
    change(state)
    torch.save(state, folder / "wrong.pt")
    with pytest.raises(UserError, match=sentence):
        zero_shot(folder, "wrong.pt")


def test_an_image_tower_alone_is_no_classifier(folder):
    with pytest.raises(UserError, match=r"fare_eps_2\.pt does not fit CLIP: .* keys are missing"):
        zero_shot(folder, "fare_eps_2.pt")
    with pytest.raises(UserError, match=r"not encoder, head\. Try: set `weights: \{clip: "):
        zero_shot(folder, {"encoder": "fare_eps_2.pt", "head": "fare_eps_2.pt"})


# --- options, at planning time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "one of `name` and `config`"),
        ({"name": "ViT-B-23"}, "there is no CLIP 'ViT-B-23'; did you mean 'ViT-B-32'?"),
        ({"name": "ViT-L-14", "pretrained": "fare3"}, "ViT-L-14 has no published weights 'fare3'; it has openai, "),
        ({"name": "ViT-B-32", "templates": ("a photo",)}, "a template is a text with {} in place of the class"),
        ({"name": "ViT-B-32", "templates": ("{0} {}",)}, "a template is a text with {} in place of the class"),
        ({"name": "ViT-B-32", "labels": "cifar-10"}, "`classnames` are needed for 'cifar-10'"),
        ({"name": "ViT-B-32", "labels": "cifar-10", "classnames": ("cat", "dog")}, "cifar-10 has 10 classes, and"),
        ({"name": "ViT-B-32", "logit_scale": 0.0}, "logit_scale=0.0 must be above 0"),
    ],
)
def test_a_wrong_option_is_refused(given, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        options.ZeroShot(**given)


def test_the_fields_of_a_spec_follow_the_published_weights():
    openai = SPECS["zero-shot"].given(options.ZeroShot(name="ViT-L-14", pretrained="openai"))
    assert openai["expected"] == {"clean": 0.7554} and openai["input"].shape == (3, 224, 224)
    fare = SPECS["zero-shot"].given(options.ZeroShot(name="ViT-L-14", pretrained="fare2"))
    assert fare["weights"]["clip"] == openai["weights"] and fare["weights"]["visual"].url.endswith("/fare_eps_2.pt")
    assert fare["expected"] == {}
    assert (
        SPECS["visual"].given(options.Visual(name="ViT-L-14", pretrained="fare2"))["weights"]
        == fare["weights"]["visual"]
    )
    simple = SPECS["zero-shot"].given(options.ZeroShot(name="ViT-L-14", pretrained="openai", templates="simple"))
    assert simple["expected"] == {}
    own = SPECS["zero-shot"].given(options.ZeroShot(name="ViT-L-14"))
    assert "set `pretrained: openai` or `weights: ./own.pt`" in own["weights"].get
    assert options.normalization(options.Visual(name="ViT-L-14", pretrained="laion2b_s32b_b82k"))[0] == [0.5, 0.5, 0.5]


def test_a_configuration_of_the_hub_brings_its_preprocessing(tmp_path):
    steps = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": steps}))
    given = options.Visual(config=tmp_path / "open_clip_config.json")
    found = SPECS["visual"].given(given)
    assert found["input"].shape == (3, 32, 32) and found["preprocessing"].resize == (32, 32)
    assert found["preprocessing"].interpolation == "bilinear"
    assert options.normalization(given) == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert options.normalization(replace(given, normalize="clip")) == (MEAN, STD)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "it is no configuration in JSON"),
        ("[1]", "it is no configuration in JSON"),
        (json.dumps({"embed_dim": 1, "vision_cfg": {}}), "has no 'text_cfg'"),
        (json.dumps({**CONFIG, "text_cfg": {"hf_tokenizer_name": "a/b"}}), "has 'hf_tokenizer_name', which is not"),
        (json.dumps({**CONFIG, "multimodal_cfg": {}}), "has 'multimodal_cfg', which is not supported"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, content, sentence):
    (tmp_path / "tiny.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(sentence) + r".* Try: "):
        SPECS["visual"].given(options.Visual(config=tmp_path / "tiny.json"))


# --- open_clip's tables and preprocessing -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[1] / "tables" / "make_table.py"
    spec = importlib.util.spec_from_file_location("make_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_up_to_date(script, tmp_path):
    kept = tables._read()
    for now, then in ((script.architectures(), kept["architectures"]), (script.published(), kept["published"])):
        known = now.keys() & then.keys()
        assert len(known) >= 75
        assert {name: now[name] for name in known} == {name: then[name] for name in known}
    script.write(tmp_path / "again.json", kept)
    assert json.loads((tmp_path / "again.json").read_text()) == kept


@pytest.mark.parametrize(
    ("name", "tag"), [("ViT-L-14", "openai"), ("ViT-B-16", "dfn2b"), ("MobileCLIP-S1", "datacompdr")]
)
def test_preprocessing_is_open_clips(name, tag):
    steps = transform.PreprocessCfg(**{**_preprocessing(name, tag), "size": tables.architectures()[name]})
    resize, *crop, _, _, normal = transform.image_transform_v2(steps, is_train=False).transforms
    found = SPECS["zero-shot"].given(options.ZeroShot(name=name, pretrained=tag))["preprocessing"]
    assert found.resize == resize.size and found.interpolation == resize.interpolation.value
    assert [tuple(each.size) for each in crop] == [(found.crop, found.crop)]
    mean, std = options.normalization(options.Visual(name=name, pretrained=tag))
    assert (list(normal.mean), list(normal.std)) == (list(mean), list(std))


def _preprocessing(name, tag):
    config = open_clip.pretrained.get_pretrained_cfg(name, tag)
    return {key: config[key] for key in ("mean", "std", "interpolation", "resize_mode")}


def test_planning_imports_neither_torch_nor_open_clip():
    code = (
        "import sys; from robharness_clip import robharness_models, options; specs = list(robharness_models());"
        "specs[0].given(options.ZeroShot(name='ViT-L-14', pretrained='fare2'));"
        "print([m for m in ('torch', 'open_clip', 'timm', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_building_keeps_the_random_state(folder):
    before = torch.get_rng_state()
    zero_shot(folder)
    assert torch.equal(torch.get_rng_state(), before)
