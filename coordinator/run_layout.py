"""The layout of a run's model, kept beside the run: to build the model takes seconds of imports, which a start has not.

A file that is missing or not as it was written is made again from the model. Whether this software still builds that model is
checked where it is built: by workers when they join, by the exporter.
"""

from __future__ import annotations

from coordinator.run_folder import RunFolder
from diffusion_at_home.errors import DataError, storage_errors
from diffusion_at_home.model.build import build_model
from diffusion_at_home.runspec import RunSpec
from diffusion_at_home.wire.layout import Layout


def run_layout(folder: RunFolder, spec: RunSpec) -> Layout:
    """The layout of the run in `folder`. Raises `StorageError`."""
    path = folder.layout
    with storage_errors(path):
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            layout = Layout.from_json(text)
            if layout.digest == digest:
                return layout
        except (FileNotFoundError, UnicodeDecodeError, DataError):
            pass
        config = spec.config
        layout = Layout.of(build_model(config.model, config.objective, spec.tokenizer.encode(), config.run.seed))
        temporary = path.with_suffix(".tmp")
        temporary.write_text(f"{layout.digest}\n{layout.to_json()}", encoding="utf-8")
        temporary.replace(path)
    return layout
