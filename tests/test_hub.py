"""Models on a hub: pushed, and loaded again, by the client of Hugging Face, from a hub on the loopback."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image

import unflip
from helpers import make_model, refused
from hub_server import Hub, point, serving
from unflip import modelfolder
from unflip.data.places import Place
from unflip.errors import MissingExtra
from unflip.inference.hub import _card, downloaded, is_hub_id, push
from unflip.inference.manifest import Manifest
from unflip.modelcard import card

PROVENANCE = {
    "method": "srunit",
    "images_seen": 400,
    "budget": 400,
    "seed": 3,
    "unflip": "0.1.0",
    "validation": {
        "rule": "the highest mean IoU",
        "images": 40,
        "segmenter": "/home/somebody/secret/judge",
        "checkpoints": {
            "chosen": {
                "seen": 400,
                "mean_iou": 0.75,
                "pixel_accuracy": 0.875,
                "flip_rate": 0.125,
                "excess_flip_rate": None,
                "frechet": 1.5,
            },
            "last": {"seen": 500, "mean_iou": 0.25, "pixel_accuracy": 0.5, "flip_rate": 0.5, "excess_flip_rate": None, "frechet": 2.5},
        },
    },
}
WHOLE = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a run that validated."""
    return make_model(tmp_path_factory.mktemp("made") / "model", provenance=PROVENANCE)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with serving() as hub:
        point(monkeypatch, hub.address, tmp_path / "cache")
        yield hub


def quietly(*given: Any, **more: Any) -> Path:
    return downloaded(*given, say=lambda line: None, **more)


def figure(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": value and value / 2, "high": value and value * 2, "n": 30}


def metrics(folder: Path, model: Path | None, **more: Any) -> Path:
    """The metrics.json of an evaluation of ``model``'s translations."""
    by = None if model is None else Manifest(Place(str(folder)), unflip.load(model, device="cpu")).by
    names = ("mean_iou", "pixel_accuracy", "flip_rate")
    found = {"format": 1, "images": 30, **{name: figure(0.25) for name in names}, "excess_flip_rate": None, "warnings": ["few images"]}
    found |= {"realism": {"features": "CLIP", "target_images": 99, "kid": figure(0.125)}, "segmenter": {"path": "/home/x/judge"}}
    found |= {"made": {"unflip": "0.1.0", "date": "2026-11-26", "translated": "/home/x/out", "translated_by": by}, **more}
    (folder / "metrics.json").write_text(json.dumps(found))
    return folder / "metrics.json"


# --- names


def test_what_is_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/first").mkdir(parents=True)
    assert is_hub_id("user/name") and is_hub_id("user/name@v1.0") and is_hub_id("hub:runs/first") and is_hub_id(Path("user/name"))
    refused(
        lambda: modelfolder.find(Path("runs/frist")), "runs/frist does not exist; give a run folder or a model folder", "hub:runs/frist"
    )
    for text in ("runs/first", "runs/frist", "name", "a/b/c", "/user/name", "./user/name", "../name", "user/", "user name/x", "~/x"):
        assert not is_hub_id(text), text


# --- there and back


def test_a_model_that_is_pushed_translates_as_before(hub: Hub, made: Path, tmp_path: Path) -> None:
    address = push(made, "user/streets", message="The first")
    [commit] = set(hub.commits["user/streets"]) - {next(iter(hub.commits["user/streets"]))}
    assert address == f"{hub.address}/user/streets/commit/{commit}" and hub.messages == ["The first"] and not hub.private["user/streets"]
    assert set(hub.files("user/streets")) == WHOLE | {".gitattributes"}

    folder = quietly("user/streets")
    assert {path.name for path in folder.iterdir()} == WHOLE and folder.name == commit
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    assert np.array_equal(unflip.load(folder, device="cpu")(image), unflip.load(made, device="cpu")(image))
    assert "somebody" not in "".join(path.read_text() for path in folder.iterdir() if path.suffix in (".md", ".json"))
    sent = modelfolder.read_config(folder)
    assert sent.provenance["validation"]["segmenter"] == "judge"
    assert sent.files == modelfolder.read_config(made).files and sent.generator == modelfolder.read_config(made).generator


def test_translators_are_pushed_and_loaded_by_name(hub: Hub, made: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """From Python, and wherever a command takes a run."""
    translator: Any = unflip.load(made, device="cpu")
    assert translator.push_to_hub("user/streets", revision="v1", message="A").startswith(f"{hub.address}/user/streets/commit/")
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    for given in ({"path": "user/streets", "revision": "v1"}, {"path": "user/streets@v1"}):
        assert np.array_equal(unflip.load(**given, device="cpu")(image), translator(image))
    Image.fromarray(image).save(tmp_path / "a.png")
    done = cli("translate", "user/streets@v1", "a.png", "--out", "out", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), translator(image))
    refused(lambda: unflip.load(made, revision="v1"), f"a revision, v1, is of a model on the hub, and {made} is none; leave it out")


def test_an_unchanged_download_is_not_repeated(hub: Hub, made: Path) -> None:
    push(made, "user/streets")
    quietly("user/streets")
    hub.asked.clear()
    quietly("user/streets")
    assert hub.asked == ["GET /api/models/user/streets/revision/main"]


def test_branches_commits_and_private_repositories(hub: Hub, made: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=8)
    first = push(made, "user/streets", private=True).rpartition("/")[2]
    second = push(other, "user/streets").rpartition("/")[2]
    push(made, "user/streets", revision="old")
    assert hub.private["user/streets"] and len({first, second}) == 2
    weights = {name: modelfolder.read_config(folder).files for name, folder in (("made", made), ("other", other))}
    for given, expected in {
        ("user/streets", None): "other",
        ("user/streets", first): "made",
        (f"user/streets@{first}", None): "made",
        ("hub:user/streets@old", None): "made",
        ("user/streets", "main"): "other",
    }.items():
        assert modelfolder.read_config(quietly(*given)).files == weights[expected], given
    refused(lambda: quietly("user/streets@old", "main"), "two revisions, old in user/streets@old and main; give one")


def test_weights_of_the_model_before_are_taken_away(hub: Hub, made: Path) -> None:
    hub.create("user/streets", {"projector.safetensors": b"old", "notes.txt": b"kept", "deep/x.safetensors": b"kept"})
    push(made, "user/streets")
    assert set(hub.files("user/streets")) == WHOLE | {"notes.txt", "deep/x.safetensors"} and len(hub.messages) == 1


def test_nothing_but_a_model_folder_is_fetched(hub: Hub, made: Path) -> None:
    push(made, "user/streets")
    evil = {"model.pt": b"pickle", "own.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "extra.safetensors": b"x" * 99}
    hub.commit("user/streets", "main", hub.files("user/streets") | evil | {"deep/config.json": b"{}"})
    hub.asked.clear()
    folder = quietly("user/streets")
    assert {path.name for path in folder.iterdir()} == WHOLE
    assert {each.rpartition("/")[2] for each in hub.asked if "/resolve/" in each} == WHOLE


# --- the card


def test_the_card_is_one_that_the_hub_understands(hub: Hub, made: Path, tmp_path: Path) -> None:
    push(made, "user/streets", metrics=metrics(tmp_path, made))
    text = hub.files("user/streets")["README.md"].decode()
    data = ModelCard(text).data
    assert "&id" not in text
    assert (data.library_name, data.pipeline_tag, data.license) == ("unflip", "image-to-image", None)
    assert data.model_name == "streets" and "unpaired-image-translation" in data.tags
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in data.eval_results}
    assert found == {
        **{("40 validation images of the training run", name): PROVENANCE["validation"]["checkpoints"]["chosen"][name]
           for name in ("mean_iou", "pixel_accuracy", "flip_rate", "frechet")},
        **{("30 translations, by unflip evaluate", name): 0.25 for name in ("mean_iou", "pixel_accuracy", "flip_rate")},
        ("30 translations, by unflip evaluate", "kid"): 0.125,
    }  # fmt: skip
    for said in ('unflip.load("user/streets")', "| seed | 3 |", "| method | srunit |", "These weights are the chosen ones", "few images"):
        assert said in text
    assert "| flip rate | 0.25 | 0.125 to 0.5 |" in text and "Of 30 translations, read by the segmenter judge; by unflip 0.1.0" in text
    assert "against 99 target images" in text and "/home" not in text


@pytest.mark.parametrize(("judge", "said"), [({"path": "a/secret/judge", "name": "judge"}, "judge"), ({"path": "a/secret/judge"}, "judge")])
def test_a_card_names_no_folders(judge: dict[str, str], said: str, made: Path, tmp_path: Path) -> None:
    """However the segmenter was named; also where a version before told its path alone."""
    card = _card(modelfolder.read_config(made), "u/n", metrics(tmp_path, made, segmenter=judge))
    assert f"read by the segmenter {said};" in card and "secret" not in card
    named = {"path": "user/name", "name": "user/name"}
    assert "segmenter user/name;" in _card(modelfolder.read_config(made), "u/n", metrics(tmp_path, made, segmenter=named))


def test_a_card_without_measurements_claims_none(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", weights="last", provenance={"imported_from": ["latest_net_G.pth"]})
    text = (folder / "README.md").read_text()
    assert ModelCard(text).data.eval_results is None
    assert "model-index" not in text and "## Validation" not in text and "## Evaluation" not in text and "imported" in text


def test_a_card_carries_no_numbers_of_other_weights(made: Path) -> None:
    """Of the last weights, which were not validated, those of the chosen ones stand in the table only."""
    config = modelfolder.read_config(made)
    other = config.model_copy(update={"provenance": PROVENANCE | {"images_seen": 600}})
    text = card(other)
    assert "| chosen | 400 |" in text and "These weights are not the chosen ones" in text
    assert "model-index" not in yaml.safe_load(text.split("---")[1])


def test_metrics_must_be_of_this_model(hub: Hub, made: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=8)
    refused(lambda: push(made, "user/x", metrics=metrics(tmp_path, other)), "metrics.json is of another model's translations")
    refused(lambda: push(made, "user/x", metrics=metrics(tmp_path, None)), "does not say whose translations were judged")
    refused(lambda: push(made, "user/x", metrics=tmp_path / "none.json"), "cannot read", "give the metrics.json of an evaluation")
    for text in ("[", "[]", "{}", '{"made": 1}', '{"made": {"translated_by": null}}'):
        (tmp_path / "bad.json").write_text(text)
        refused(lambda: push(made, "user/x", metrics=tmp_path / "bad.json"), "no metrics of `unflip evaluate`")
    assert hub.asked == []


# --- what goes wrong


def test_a_damaged_model_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"other")
    refused(lambda: push(folder, "user/x"), "model.safetensors is missing or damaged", "nothing was sent")
    refused(lambda: push(tmp_path / "none", "user/x"), "does not exist; give a run folder or a model folder")
    for name in ("x", "user/x@main", "user/x/y", ""):
        refused(lambda name=name: push(folder, name), "no name on the hub", "it is OWNER/NAME")
    assert hub.asked == []


def test_a_tampered_file_is_not_loaded(hub: Hub, made: Path) -> None:
    push(made, "user/streets")
    hub.commit(
        "user/streets", "main", hub.files("user/streets") | {"model.safetensors": hub.files("user/streets")["model.safetensors"][::-1]}
    )
    folder = quietly("user/streets")
    refused(lambda: unflip.load(folder, device="cpu"), "is damaged: its SHA-256 is not the recorded one")


def test_an_interrupted_download_loads_not_at_all_or_whole(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(made, "user/streets")
    weights = hub.files("user/streets").pop("model.safetensors")
    hub.refused["user/streets"] = (503, "busy")
    refused(lambda: quietly("user/streets"), "the hub cannot be reached")
    hub.refused.clear()
    hub.files("user/streets")["model.safetensors"] = weights
    assert modelfolder.load(quietly("user/streets")).folder.name == hub.branches["user/streets"]["main"]


def test_a_missing_repository_or_revision_is_one_line(hub: Hub, made: Path) -> None:
    line = refused(
        lambda: quietly("runs/frist"), "runs/frist is no folder here, and the hub has no repository runs/frist, or it is private"
    )
    assert "give a run folder or a model folder" in line and "hf auth login" in line
    line = refused(lambda: quietly("hub:runs/frist"), "the hub has no repository runs/frist")
    assert "no folder" not in line
    push(made, "user/streets")
    refused(lambda: quietly("user/streets", "v9"), "no revision v9 of user/streets on the hub; give a branch, a tag or a commit of it")
    hub.refused["user/streets"] = (403, "GatedRepo")
    refused(lambda: quietly("user/streets"), "user/streets is gated; accept its conditions on its page on the hub")


def test_what_is_asked_is_said_before_it_is_asked(hub: Hub) -> None:
    said: list[str] = []
    refused(lambda: downloaded("runs/first", say=lambda line: said.append(f"{len(hub.asked)} {line}")))
    assert said == ["0 runs/first is no folder here, and so asking the hub for the model runs/first"]


def test_what_is_no_unflip_model_is_found_before_it_is_fetched(hub: Hub) -> None:
    hub.create("user/llm", {"model-00001-of-00002.safetensors": b"x" * 1000, "README.md": b"large"})
    refused(lambda: quietly("user/llm"), "no unflip model, user/llm on the hub (it has no config.json); check the name")
    hub.create("user/llm", {"model.safetensors": b"x" * 1000, "config.json": b'{"model_type": "llama"}'})
    refused(lambda: quietly("user/llm"), "no model that this unflip can read, user/llm on the hub", "model_type")
    hub.create("user/odd", {"config.json": json.dumps({"generator": {}, "files": {"../../x.safetensors": "0"}}).encode()})
    refused(lambda: quietly("user/odd"), "no model that this unflip can read")
    assert not [each for each in hub.asked if each.endswith(".safetensors")]


def test_without_a_right_token_nothing_is_pushed(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(lambda: push(made, "user/streets"), "log in with `hf auth login`")
    assert hub.commits == {}
    push(made, "user/streets", token="hf_right")
    assert set(hub.commits) == {"user/streets"}


def test_without_a_network_only_what_is_in_the_cache_is_had(hub: Hub, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push(made, "user/streets")
    folder = quietly("user/streets")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    point(monkeypatch, nobody, tmp_path / "cache")
    assert quietly("user/streets") == folder
    refused(lambda: quietly("user/other"), "user/other is no folder here, and the hub cannot be reached", "user/other is not in the cache")
    refused(lambda: push(made, "user/streets"), "the hub cannot be used for user/streets", "check the network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert quietly("user/streets") == folder
    refused(lambda: quietly("user/other"), "HF_HUB_OFFLINE is set and user/other is not in the cache", "give a run folder")
    refused(lambda: push(made, "user/streets"), "HF_HUB_OFFLINE is set, and the hub is needed; unset it")


def test_without_its_client_the_extra_is_named(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = refused(lambda: quietly("user/streets"), "user/streets is no folder here, and to ask the hub: huggingface_hub is not installed")
    assert line.endswith("run: pip install 'unflip[hub]'")
    with pytest.raises(MissingExtra):
        push(made, "user/streets")
