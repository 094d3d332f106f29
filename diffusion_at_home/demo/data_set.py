"""The data set of the demo: what needs no download, and where the config wants latents, encoded by an autoencoder of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.demo.judges import JUDGES
from diffusion_at_home.demo.step import dah
from diffusion_at_home.errors import StopProcess

_LATENTS: Final = "-latents"


@dataclass(frozen=True, slots=True)
class DemoData:
    """Where everything is, or will be."""

    source: str
    """What `dah data build` and the judges call it."""
    pictures: Path
    autoencoder: Path | None
    """None where the run works on pixels."""
    latents: Path

    @classmethod
    def of(cls, config: RunConfig, config_path: Path, out: Path) -> DemoData:
        """That of `config`: its data.path ends in the name of a source, followed by -latents where it works on these.

        Raises `StopProcess` if the demo cannot make it.
        """
        name, in_latents = config.data.path.name, config.model.in_latents
        source = name.removesuffix(_LATENTS) if in_latents else name
        if source not in JUDGES or in_latents != name.endswith(_LATENTS):
            raise StopProcess(
                f"{config_path} trains on {config.data.path}: the demo builds what needs no download, "
                f"{' or '.join(JUDGES)}, or in latents {' or '.join(f'{kind}{_LATENTS}' for kind in JUDGES)}"
            )
        return cls(source, out / "data", out / "autoencoder" if in_latents else None, out / "latents")

    @property
    def overrides(self) -> list[str]:
        """Of the run's config."""
        if self.autoencoder is None:
            return [f"data.path={_quoted(self.pictures)}"]
        return [f"data.path={_quoted(self.latents)}", f"model.latents.autoencoder={_quoted(self.autoencoder)}"]

    def make(self, config: RunConfig, say: Callable[[str], None]) -> None:
        """Make what is not there yet. Raises `StepFailed`."""
        dah("data", "build", self.source, str(self.pictures), "--set", f"base={config.model.image_size}")
        say(f"made the data set {self.source!r}")
        if self.autoencoder is None:
            return
        if not self.autoencoder.exists():
            shape = [
                f"latent_channels={config.model.latents.channels}",
                f"block_out_channels={_widths(config.model.latents.factor)}",
            ]
            pairs = [part for setting in shape for part in ("--set", setting)]
            dah("data", "train-autoencoder", str(self.pictures), str(self.autoencoder), *pairs, hear=say)
        dah("data", "encode", str(self.pictures), str(self.latents), "--autoencoder", str(self.autoencoder), hear=say)
        say(f"trained an autoencoder in {self.autoencoder} and encoded the data set by it")


def _widths(factor: int) -> list[int]:
    """Features of an autoencoder's resolutions, such that it shrinks sides by `factor`, a power of two."""
    return [32, *[64] * (factor.bit_length() - 1)]


def _quoted(path: Path) -> str:
    return repr(str(path.absolute()))
