"""The config of each cohort's run, from one config: what must be the same in all of them, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from diffusion_at_home.cohorts.description import Cohorts
from diffusion_at_home.cohorts.router_training import shared_tokenizer
from diffusion_at_home.config.run import OWN, RunConfig
from diffusion_at_home.errors import storage_errors

TOKENIZER_NAME: Final = "tokenizer.json"


def write_tokenizer(cut: Path, cohorts: Cohorts, config: RunConfig, out: Path) -> Path | None:
    """Write the tokenizer of all captions into the folder `out` and return its path; None if the config names one.

    Raises `ConfigError`, `DataError`, `StorageError`.
    """
    if config.model.text.tokenizer != OWN:
        return None
    path = out / TOKENIZER_NAME
    data = shared_tokenizer([cut / cohort.name for cohort in cohorts.cohorts], config)
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path


def cohort_config(config: RunConfig, data: Path, number: int, tokenizer: Path | None) -> RunConfig:
    """That of cohort `number`, from 1: its data, name and ports; seed, model and tokenizer stay the same for all."""
    section = config.model.text
    text = section if tokenizer is None else section.model_copy(update={"tokenizer": str(tokenizer)})
    apart = 2 * (number - 1)
    ports = {name: port + apart for name in ("http_port", "grpc_port") if (port := getattr(config.server, name))}
    return config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": f"{config.run.name[:60]}-{number}"}),
            "data": config.data.model_copy(update={"path": data}),
            "model": config.model.model_copy(update={"text": text}),
            "server": config.server.model_copy(update=ports),
        }
    )
