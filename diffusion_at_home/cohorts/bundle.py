"""Makes one checkpoint of the cohorts' checkpoints and their router: a folder that stock diffusers draws with, by one code file.

It holds each expert's default weights as they were published, byte for byte, with the manifest that vouches for them; it is
verified, signed, pushed and judged like any other checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_at_home.checkpoint.experts import (
    EXPERTS,
    INDEX_NAME,
    PARTS,
    PIPELINE_CLASS,
    expert_files,
    pipeline_bytes,
)
from diffusion_at_home.checkpoint.export import file_entries, software_versions
from diffusion_at_home.checkpoint.grid import draw_grid
from diffusion_at_home.checkpoint.manifest import (
    MANIFEST_NAME,
    PIPELINE_NAME,
    CheckpointManifest,
    CohortOrigin,
    CohortsManifest,
    Contributor,
    DataOrigin,
)
from diffusion_at_home.checkpoint.stock import load_pipeline
from diffusion_at_home.checkpoint.verify import verify
from diffusion_at_home.cohorts.card import cohorts_card
from diffusion_at_home.cohorts.router import RouterFacts, check_family
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.errors import ConfigError, storage_errors
from diffusion_at_home.model.build import build_model
from diffusion_at_home.sync import sync_all, sync_folder

_TOKENIZER: Final = "tokenizer/tokenizer.json"
_OF_ONE: Final = ("scheduler", "tokenizer")
"""The same in all of them."""


@dataclass(frozen=True, slots=True)
class Expert:
    """A cohort's verified checkpoint."""

    folder: Path
    manifest: CheckpointManifest

    @property
    def tokenizer(self) -> bytes:
        """Its tokenizer.json."""
        return (self.folder / _TOKENIZER).read_bytes()


def bundle(checkpoints: Sequence[Path], router: Path, out: Path, *, top_k: int) -> CohortsManifest:
    """Write the new folder `out`, all or nothing; returns its manifest.

    Args:
        checkpoints: folders of one checkpoint of each cohort, in any order.
        router: folder of `save_router`.
        out: must not exist.
        top_k: experts a step that are asked where whoever draws does not say.

    Raises:
        ConfigError: they are not of the router's cohorts, one each, or not of one shape and tokenizer.
        DataError: the router is none.
        IntegrityError: a checkpoint is not what its manifest says.
        StorageError: the disk is full.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: choose a new folder")
    facts = RouterFacts.load(router)
    if not 1 <= top_k <= len(facts.cohorts):
        raise ConfigError(f"--top-k {top_k} must be between 1 and the number of cohorts, {len(facts.cohorts)}")
    experts = _in_order([Expert(folder, verify(folder)) for folder in checkpoints], facts)
    config = RunConfig.model_validate(experts[0].manifest.config)
    check_family(config)
    _check_alike(experts, router)
    draft = out.with_name(f".{out.name}.part")
    with storage_errors(out.parent):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _copy(experts, router, draft)
        _write_index(experts, config, draft, top_k)
        _draw(draft, config, experts[0].tokenizer)
        manifest = _manifest(experts, facts)
        (draft / "README.md").write_text(cohorts_card(manifest, facts, top_k), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": file_entries(draft)})
        (draft / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sync_all(draft)
        draft.rename(out)
        sync_folder(out.parent)
    return manifest


def _in_order(experts: Sequence[Expert], facts: RouterFacts) -> list[Expert]:
    """By the router's numbers."""
    by_data: dict[str, Expert] = {}
    for expert in experts:
        digest = expert.manifest.data.digest
        if digest not in facts.cohorts:
            raise ConfigError(f"{expert.folder} was trained on no cohort of the router: train a router on the same cut")
        if digest in by_data:
            raise ConfigError(f"{expert.folder} and {by_data[digest].folder} are of the same cohort: name one of each")
        by_data[digest] = expert
    if missing := [str(k) for k, digest in enumerate(facts.cohorts, start=1) if digest not in by_data]:
        raise ConfigError(f"there is no checkpoint of cohort {', '.join(missing)}: name one of each")
    return [by_data[digest] for digest in facts.cohorts]


def _check_alike(experts: Sequence[Expert], router: Path) -> None:
    first = experts[0]
    for other in experts[1:]:
        for key in ("model", "objective"):
            if other.manifest.config[key] != first.manifest.config[key]:
                raise ConfigError(f"{other.folder} and {first.folder} have different [{key}]: init them of one config")
        if _tokens(other.tokenizer) != _tokens(first.tokenizer):
            raise ConfigError(f"{other.folder} and {first.folder} have different tokenizers: use `dah cohorts init`")
    if _tokens((router / _TOKENIZER).read_bytes()) != _tokens(first.tokenizer):
        raise ConfigError(f"{router} has another tokenizer than {first.folder}: train it with the runs' config")


def _tokens(tokenizer_json: bytes) -> dict[str, Any]:
    """Which tokens a tokenizer makes: how it pads and cuts is noted when it is used, and each call says that anew."""
    found: dict[str, Any] = json.loads(tokenizer_json)
    return {key: value for key, value in found.items() if key not in ("padding", "truncation")}


def _copy(experts: Sequence[Expert], router: Path, out: Path) -> None:
    (out / EXPERTS).mkdir()
    for number, expert in enumerate(experts, start=1):
        shutil.copyfile(expert.folder / MANIFEST_NAME, out / EXPERTS / f"{number}.json")
        for source, target in expert_files(expert.manifest, number).items():
            (out / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(expert.folder / source, out / target)
    for name in _OF_ONE:
        shutil.copytree(experts[0].folder / name, out / name)
    shutil.copytree(router / "transformer", out / "router")
    shutil.copytree(router / "text_encoder", out / "router_text_encoder")
    (out / PIPELINE_NAME).write_bytes(pipeline_bytes())


def _write_index(experts: Sequence[Expert], config: RunConfig, out: Path, top_k: int) -> None:
    """`model_index.json`, by which diffusers finds the parts and the code that puts them together."""
    index: dict[str, Any] = json.loads((experts[0].folder / INDEX_NAME).read_text(encoding="utf-8"))
    parts = {name: index[name] for name in _OF_ONE}
    parts |= {f"{part}_{number}": index[part] for number in range(1, len(experts) + 1) for part in PARTS}
    parts |= {"router": index["transformer"], "router_text_encoder": index["text_encoder"]}
    settings = {
        "default_sample_size": config.model.image_size,
        "prompt_max_tokens": config.model.text.max_tokens,
        "top_k": top_k,
    }
    made: Mapping[str, Any] = {
        "_class_name": list(PIPELINE_CLASS),
        "_diffusers_version": index["_diffusers_version"],
        **settings,
        **parts,
    }
    (out / INDEX_NAME).write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def _draw(out: Path, config: RunConfig, tokenizer: bytes) -> None:
    """The grid, by what has been written."""
    model = build_model(config.model, config.objective, tokenizer, config.run.seed)
    model.adopt(load_pipeline(out))
    draw_grid(model.eval(), config, out / "grid.png")


def _manifest(experts: Sequence[Expert], facts: RouterFacts) -> CohortsManifest:
    manifests = [expert.manifest for expert in experts]
    first, images = manifests[0], sum(one.images for one in manifests)
    weights = hashlib.sha256("\n".join(one.weights_digest for one in manifests).encode()).hexdigest()
    run = f"{re.sub(r'[^a-z0-9._-]+', '-', facts.data_name.lower()).strip('-._')[:40] or 'data'}-cohorts"
    given = Counter[str]()
    names = dict[str, str]()
    for one in manifests:
        for worker in one.contributors:
            given[worker.worker_id] += worker.images
            names.setdefault(worker.worker_id, worker.display_name)
    return CohortsManifest(
        name=f"{run}-{images:010d}",
        run_id=f"{run}-{weights[:8]}",
        run=run,
        title=first.title,
        version=sum(one.version for one in manifests),
        images=images,
        weights_digest=weights,
        default_weights=first.default_weights,
        held_out_loss={},
        held_out_bins=(),
        parameters=sum(one.parameters for one in manifests),
        license=" AND ".join(dict.fromkeys(one.license for one in manifests)),
        created=max(one.created for one in manifests),
        data=DataOrigin(
            name=facts.data_name,
            digest=facts.data,
            source=first.data.source,
            license=first.data.license,
            images=sum(one.data.images for one in manifests),
        ),
        contributors=tuple(
            Contributor(worker_id=worker, display_name=names[worker], images=count)
            for worker, count in sorted(given.items(), key=lambda item: (-item[1], item[0]))
        ),
        config=first.config,
        software=software_versions(),
        call=first.call,
        files={},
        cohorts=tuple(_origin(expert) for expert in experts),
    )


def _origin(expert: Expert) -> CohortOrigin:
    return CohortOrigin(
        run_id=expert.manifest.run_id,
        name=expert.manifest.name,
        manifest_sha256=hashlib.sha256((expert.folder / MANIFEST_NAME).read_bytes()).hexdigest(),
        weights_digest=expert.manifest.weights_digest,
        images=expert.manifest.images,
    )
