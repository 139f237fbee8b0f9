"""Model folders on Hugging Face's hub: only what a model folder consists of goes there, and only that is taken from there."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unflip import modelfolder
from unflip.errors import MissingExtra, UserError, cut, one_line
from unflip.files import nameless, sha256
from unflip.modelcard import card
from unflip.modelfolder import WEIGHTS, ModelConfig
from unflip.networks.hub import HUB, HubName

PATIENCE = 20.0
"""Seconds that the hub has for a short answer."""
LONGEST = 160
"""Of a reason, in characters."""


def is_hub_id(text: str | Path) -> bool:
    """Whether that names a model on the hub: ``hub:OWNER/NAME``, or ``OWNER/NAME`` where there is neither that path nor a folder OWNER.

    So a run folder whose name is mistyped is not looked for in the network. ``@REVISION`` may follow.
    """
    name = HubName.parse(str(text))
    if name is None:
        return False
    if str(text).startswith(HUB):
        return True
    return not Path(text).exists() and not Path(name.repository.partition("/")[0]).exists()


def downloaded(
    text: str | Path,
    revision: str | None = None,
    *,
    token: str | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Path:
    """The model folder of a name on the hub (see :func:`is_hub_id`), in the cache of huggingface_hub, where it is downloaded if need be.

    ``revision``: a branch, a tag or a commit; else what ``text`` says after ``@``, else the newest commit. Of a repository only
    config.json, the weight files that this lists and README.md are fetched. ``say`` is told what is asked of the hub.

    Raises:
        UserError: it cannot be had, or is no unflip model.
    """
    name = HubName.parse(str(text))
    if name is None:
        raise UserError(f"no name on the hub, {text}; it is OWNER/NAME, or OWNER/NAME@REVISION")
    if revision and name.revision and revision != name.revision:
        raise UserError(f"two revisions, {name.revision} in {text} and {revision}; give one")
    repository, revision = name.repository, revision or name.revision
    plain = "" if str(text).startswith(HUB) else f"{repository} is no folder here, and "
    with _hub_errors(repository, revision, plain):
        from huggingface_hub import snapshot_download

        say(f"{plain}so asking the hub for the model {repository}" if plain else f"asking the hub for the model {repository}")
        # first what it is: of a name that is mistyped, not gigabytes of something else
        with _bars(False):
            first = snapshot_download(repository, revision=revision, token=token, etag_timeout=PATIENCE, allow_patterns=["config.json"])
        folder = Path(first)
        if not (folder / "config.json").is_file():
            raise UserError(f"no unflip model, {repository} on the hub (it has no config.json); check the name")
        try:
            names = ["config.json", "README.md", *modelfolder.read_config(folder).files]
        except UserError as error:
            reason = cut(str(error).removeprefix(f"{folder}/"), LONGEST)
            raise UserError(f"no model that this unflip can read, {repository} on the hub ({reason})") from None
        with _bars(sys.stderr.isatty()):  # the folder's name is the commit: both are of the same one
            return Path(snapshot_download(repository, revision=folder.name, token=token, etag_timeout=PATIENCE, allow_patterns=names))


def local_folder(given: str | Path, revision: str | None = None) -> Path:
    """Where the model is that ``given`` names: that path, or what is downloaded from the hub. Raises ``UserError`` as :func:`downloaded`,
    and where a path is given a revision."""
    if is_hub_id(given):
        return downloaded(given, revision)
    if revision is not None:
        raise UserError(f"a revision, {revision}, is of a model on the hub, and {given} is none; leave it out")
    return Path(given)


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
    metrics: str | Path | None = None,
) -> str:
    """Put a run's or model folder's model into the repository ``name`` on the hub, which is made where there is none, by one commit.

    ``private``: of a new repository. ``revision``: a branch, made where there is none. ``metrics``: the metrics.json of an evaluation of
    this model (or its folder), whose numbers the card then carries. Gives the commit's address.

    Raises:
        UserError: no whole model, metrics of another model, or the hub refuses.
    """
    folder = modelfolder.find(Path(folder))
    config = modelfolder.read_config(folder)
    on_hub = HubName.parse(name)
    if on_hub is None or on_hub.revision:
        raise UserError(f"no name on the hub, {name}; it is OWNER/NAME")
    for file, digest in config.files.items():
        if not (folder / file).is_file() or sha256(folder / file) != digest:
            raise UserError(f"{folder / file} is missing or damaged: its SHA-256 is not the recorded one; nothing was sent")
    texts = {
        "config.json": json.dumps(_anonymous(config).model_dump(mode="json"), indent=2) + "\n",
        "README.md": _card(config, on_hub.repository, None if metrics is None else Path(metrics)),
    }
    with _hub_errors(on_hub.repository, revision, ""):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi(token=token, library_name="unflip")
        api.create_repo(on_hub.repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(on_hub.repository, branch=revision, exist_ok=True)
        there = api.list_repo_files(on_hub.repository, revision=revision)
        old = [each for each in there if Path(each).suffix == ".safetensors" and "/" not in each and each not in config.files]
        operations: list[Any] = [
            *(CommitOperationAdd(file, text.encode()) for file, text in texts.items()),
            *(CommitOperationAdd(file, str(folder / file)) for file in config.files),
            *(CommitOperationDelete(file) for file in old),  # of another model that was here
        ]
        message = message or f"An unflip model: {config.provenance.get('method', 'imported')}"
        with _bars(sys.stderr.isatty()):
            done = api.create_commit(on_hub.repository, operations=operations, commit_message=message, revision=revision)
    return str(done.commit_url)


def _anonymous(config: ModelConfig) -> ModelConfig:
    """Without the folders of whose machine it was made on."""
    found = config.provenance.get("validation")
    if not found:
        return config
    public = {**found, "segmenter": nameless(found["segmenter"])}
    return config.model_copy(update={"provenance": config.provenance | {"validation": public}})


def _card(config: ModelConfig, name: str, path: Path | None) -> str:
    """The card, with what the metrics.json of an evaluation holds, after making sure that it is of this model's translations."""
    if path is None:
        return card(config, name)
    path = path / "metrics.json" if path.is_dir() else path
    advice = "give the metrics.json of an evaluation, or its folder"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        by = found["made"]["translated_by"] and found["made"]["translated_by"]["model"]
        text = card(config, name, found)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"no metrics of `unflip evaluate`, {path}; {advice}") from None
    if by is None:
        raise UserError(f"{path} does not say whose translations were judged; translate with `unflip translate`, and evaluate its output")
    if str(by).partition(":")[0] != config.files.get(WEIGHTS):
        raise UserError(f"{path} is of another model's translations; translate with this one, and evaluate its output")
    return text


@contextmanager
def _hub_errors(repository: str, revision: str | None, plain: str) -> Iterator[None]:
    """What the hub and the way to it can do to us, in one line each. ``plain``: what else the name could have meant."""
    try:
        from huggingface_hub import errors
    except ImportError:
        missing = MissingExtra("huggingface_hub", "hub")
        raise UserError(f"{plain}to ask the hub: {missing}") if plain else missing from None
    folder = "; give a run folder or a model folder, or the name of a model on the hub" if plain else ""
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"{repository} is gated; accept its conditions on its page on the hub, and {log_in}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{plain}the hub has no repository {repository}, or it is private{folder}; if it is yours, {log_in}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"no revision {revision} of {repository} on the hub; give a branch, a tag or a commit of it") from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise UserError(f"{plain}HF_HUB_OFFLINE is set and {repository} is not in the cache{folder}; or unset it") from error
        reason = cut(one_line(error.__cause__ or error), LONGEST)
        raise UserError(f"{plain}the hub cannot be reached ({reason}){folder}; {repository} is not in the cache") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, and the hub is needed; unset it") from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        remedy = log_in if code in (401, 403) else "try again later"
        raise UserError(f"the hub refuses {repository} (status {code}: {cut(one_line(error), LONGEST)}); {remedy}") from error
    except Exception as error:  # of the network, and of huggingface_hub: they have no base that all its versions share
        raise UserError(
            f"{plain}the hub cannot be used for {repository} ({cut(one_line(error), LONGEST)}); check the network{folder}"
        ) from error


@contextmanager
def _bars(on: bool) -> Iterator[None]:
    """Show what huggingface_hub says and its bars only where that is wanted."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if on or are_progress_bars_disabled():
        yield
        return
    said = logging.getLogger("huggingface_hub")
    level = said.level
    said.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
        said.setLevel(level)
