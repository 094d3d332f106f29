"""Makes a run: checks the data, trains the tokenizer or takes an encoder in, draws the initial weights, writes version 0."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from coordinator.blobs import BlobStore
from coordinator.data_fit import check_fit
from coordinator.data_pool import DataPool
from coordinator.judging.copies import copy_what_judges
from coordinator.ledger import Ledger
from coordinator.run_folder import RunFolder
from coordinator.run_layout import run_layout
from coordinator.text_encoder import take_in
from coordinator.versions import first_version
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.latents import read_texts
from diffusion_at_home.data.manifest import AUTOENCODER_NAME, DataManifest, verify
from diffusion_at_home.data.order import DataCursor
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.text import run_tokenizer
from diffusion_at_home.outer.state import RunState
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.signing_key import create_key, public_bytes
from diffusion_at_home.wire.layout import Layout


@dataclass(frozen=True, slots=True)
class NewRun:
    """What was made."""

    run_id: str
    folder: str
    parameters: int
    shards: int
    images: int
    held_out_images: int


def init_run(folder: RunFolder, config: RunConfig) -> NewRun:
    """Make a run in `folder`, all or nothing.

    Raises `ConfigError` if the folder is taken or the config does not fit the data, `DataError`, `StorageError`.
    """
    if folder.root.exists() and any(folder.root.iterdir()):
        raise ConfigError(f"{folder.root} is not empty: choose a new folder for the run")
    manifest = DataManifest.load(config.data.path)
    check_fit(config, manifest)
    verify(config.data.path, manifest)
    draft = RunFolder(folder.root.with_name(f".{folder.root.name}.new"))
    with storage_errors(folder.root):
        shutil.rmtree(draft.root, ignore_errors=True)
        draft.root.mkdir(parents=True)
        made = _fill(draft, config, manifest)
        if folder.root.exists():
            folder.root.rmdir()
        draft.root.rename(folder.root)
    return NewRun(
        run_id=made.run_id,
        folder=str(folder.root),
        parameters=run_layout(folder, made).num_elements,
        shards=len(manifest.train),
        images=manifest.num_train_images,
        held_out_images=sum(entry.num_samples for entry in manifest.held_out),
    )


def _fill(folder: RunFolder, config: RunConfig, manifest: DataManifest) -> RunSpec:
    data = config.data.path
    blobs = BlobStore(folder.blobs, folder.staging)
    text_section, text_encoder = take_in(config.model, blobs)
    config = config.model_copy(update={"model": config.model.model_copy(update={"text": text_section})})
    captions = (text.caption for entry in manifest.train for text in read_texts(data, manifest, entry))
    spec = RunSpec(
        run_id=f"{config.run.name}-{secrets.token_hex(4)}",
        config=_without_place(config),
        data=manifest,
        tokenizer="" if text_encoder else run_tokenizer(captions, config.model.text).decode(),
        text_encoder=text_encoder,
        receipt_key=public_bytes(create_key(folder.receipt_key)).hex(),
    )
    if manifest.latents is not None:
        folder.autoencoder.mkdir()
        for file in manifest.latents.files:
            shutil.copyfile(data / AUTOENCODER_NAME / file.name, folder.autoencoder / file.name)
    spec_sha256 = blobs.add_bytes(spec.to_bytes())
    for entry in manifest.train:
        blobs.add_copy(data / entry.name, entry.sha256)
    folder.held_out.mkdir()
    for entry in manifest.held_out:
        shutil.copyfile(data / entry.name, folder.held_out / entry.name)
    judging_files = copy_what_judges(folder, config.judging)
    model = _model(spec)
    layout = Layout.of(model)
    state = RunState.initial(config, layout.flatten(model))
    version = first_version(state, layout=layout, blobs=blobs, folder=folder.state)
    ledger = Ledger.create(
        folder.ledger, run_id=spec.run_id, spec_sha256=spec_sha256, pool=DataPool(DataCursor(0, 0, 0))
    )
    ledger.publish(version)
    ledger.add_judging_files(judging_files)
    ledger.close()
    return spec


def _without_place(config: RunConfig) -> RunConfig:
    """`config` with the run's own copy of the autoencoder for that in one of the operator's folders."""
    section = config.model.latents
    if not config.model.in_latents or not Path(section.autoencoder).is_dir():
        return config
    model = config.model.model_copy(update={"latents": section.model_copy(update={"autoencoder": AUTOENCODER_NAME})})
    return config.model_copy(update={"model": model})


def _model(spec: RunSpec) -> DiffusionModel:
    return build_model(spec.config.model, spec.config.objective, spec.tokenizer.encode(), spec.config.run.seed)
