"""What is trained, each in a process of its own, and read back: the one model, the experts, the router, the distilled model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.parity.training import one_node
from diffusion_at_home.cohorts.pipeline import CohortPipeline
from diffusion_at_home.cohorts.router import RouterSettings, save_router
from diffusion_at_home.cohorts.router_training import train_router
from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.data.manifest import DataManifest, ShardEntry
from diffusion_at_home.data.order import sample_order
from diffusion_at_home.data.shards import decode_images, read_shard
from diffusion_at_home.model.base import DiffusionModel
from diffusion_at_home.model.build import build_model
from diffusion_at_home.model.evaluation import Pictures, held_out_loss
from diffusion_at_home.model.objective import T_MIN, drop_captions, sample_times
from diffusion_at_home.outer.schedule import learning_rate
from diffusion_at_home.wire.layout import Layout
from worker.trainer import Batch


@dataclass(frozen=True, slots=True)
class Work:
    """Where everything is."""

    config: RunConfig
    data: Path
    cohorts: tuple[Path, ...]
    """A data set each."""
    out: Path
    """Where weights and router go."""
    tokenizer: bytes

    @property
    def router(self) -> Path:
        """Its folder."""
        return self.out / "router"

    def blank(self) -> DiffusionModel:
        """A model with the weights that every training begins with."""
        return build_model(self.config.model, self.config.objective, self.tokenizer, self.config.run.seed)

    def save(self, name: str, weights: Tensor) -> None:
        """Keep the weights fp32 (n,) of a training."""
        save_file({"weights": weights}, self.out / f"{name}.safetensors")

    def weights(self, name: str) -> Tensor:
        """Those that `save` kept."""
        return load_file(self.out / f"{name}.safetensors")["weights"]

    def model(self, name: str) -> DiffusionModel:
        """A trained one."""
        return self._with(self.weights(name))

    def merged(self) -> DiffusionModel:
        """The mean of the experts' weights."""
        experts = [self.weights(f"expert_{k}") for k in range(1, len(self.cohorts) + 1)]
        return self._with(torch.stack(experts).mean(dim=0))

    def mixture(self, top_k: int) -> DiffusionModel:
        """The experts behind the router, as the exported pipeline puts them together."""
        from diffusers import PRXTransformer2DModel  # noqa: PLC0415
        from transformers import T5EncoderModel  # noqa: PLC0415

        model = self.blank()
        stock = model.pipeline()
        parts = {
            "router": PRXTransformer2DModel.from_pretrained(self.router / "transformer"),
            "router_text_encoder": T5EncoderModel.from_pretrained(self.router / "text_encoder"),
        }
        for k in range(1, len(self.cohorts) + 1):
            expert = self.model(f"expert_{k}").pipeline()
            parts |= {f"transformer_{k}": expert.transformer, f"text_encoder_{k}": expert.text_encoder}
        pipeline = CohortPipeline(scheduler=stock.scheduler, tokenizer=stock.tokenizer, **parts)
        model.adopt(pipeline.stock(top_k))
        return model.eval()

    def _with(self, weights: Tensor) -> DiffusionModel:
        model = self.blank()
        Layout.of(model).load(model, weights)
        return model.eval()


class DataTask:
    """A data set of one size as a training task; see `benchmarks.parity.task`."""

    def __init__(self, folder: Path, tokenizer: bytes, channels: int) -> None:
        self.tokenizer = tokenizer
        manifest = DataManifest.load(folder)
        self.images_NCHW, self.captions = read_all(folder, manifest.train, channels)
        self.held_out = Pictures(*read_all(folder, manifest.held_out, channels))

    def batches(self, seed: int, batch_images: int) -> Iterator[Batch]:
        """Epoch after epoch without end."""
        epoch, order = 0, list[int]()
        while True:
            while len(order) < batch_images:
                order += sample_order(seed, epoch, 0, len(self.captions))
                epoch += 1
            take, order = order[:batch_images], order[batch_images:]
            yield Batch(self.images_NCHW[take], [self.captions[index] for index in take])


def read_all(folder: Path, entries: tuple[ShardEntry, ...], channels: int) -> tuple[Tensor, list[str]]:
    """The pictures of some shards of one size, and their captions."""
    (size,) = {entry.size for entry in entries}
    samples = [one for entry in entries for one in read_shard(folder / entry.name, entry)]
    return decode_images(samples, size, channels), [one.caption for one in samples]


@dataclass(frozen=True, slots=True)
class Training:
    """One node's on one data set."""

    work: Work
    name: str
    data: Path
    config: RunConfig
    """Of its own length."""

    def run(self) -> str:
        """Train, and keep the better of raw and averaged weights by its own held-out pictures, as a run does."""
        torch.set_num_threads(1)
        task = DataTask(self.data, self.work.tokenizer, self.config.model.channels)
        outcome = one_node(self.config, task)
        model, found = self.work.blank(), list[tuple[float, Tensor]]()
        layout = Layout.of(model)
        for weights in (outcome.published, outcome.ema):
            layout.load(model, weights)
            loss = held_out_loss(model, [task.held_out], self.config.objective, draws=1, seed=0).mean
            found.append((loss, weights))
        loss, best = min(found, key=lambda pair: pair[0])
        self.work.save(self.name, best)
        return f"{self.name}: {self.config.run.total_images} images, loss of its own held-out pictures {loss:.4f}"


@dataclass(frozen=True, slots=True)
class RouterTraining:
    """The router's, as `dah cohorts train-router` does it."""

    work: Work
    settings: RouterSettings

    def run(self) -> str:
        """Train, and save it."""
        torch.set_num_threads(1)
        cut = self.work.cohorts[0].parent
        router, facts = train_router(cut, self.work.config, self.settings, device=torch.device("cpu"))
        save_router(router, facts, self.work.router)
        shown = ", ".join(f"{share:.0%} at t = {t:g}" for t, share in zip(facts.times, facts.accuracy, strict=True))
        return f"router: right in {shown} ({facts.chance:.0%} by chance)"


@dataclass(frozen=True, slots=True)
class Distillation:
    """One model of the same size that learns what the mixture of two experts a step predicts, on all data.

    The loss is the run's own with the mixture's prediction in the place of the picture.
    """

    work: Work
    config: RunConfig
    """Of its own length."""

    def run(self) -> str:
        """Train, and keep the last weights."""
        config, inner = self.config, self.config.inner
        task = DataTask(self.work.data, self.work.tokenizer, config.model.channels)
        teacher, student = self.work.mixture(2), self.work.blank()
        optimizer = torch.optim.AdamW(
            student.parameters(), betas=(inner.beta1, inner.beta2), weight_decay=inner.weight_decay, fused=True
        )
        generator = torch.Generator().manual_seed(config.run.seed)
        batches = task.batches(config.run.seed, inner.batch_images)
        steps = math.ceil(config.run.total_images / inner.batch_images)
        for step, batch in enumerate(itertools.islice(batches, steps)):
            rate = learning_rate(config, step * inner.batch_images)
            for group in optimizer.param_groups:
                group["lr"] = rate
            captions = drop_captions(batch.captions, config.objective.caption_dropout, generator)
            t_B = sample_times(len(captions), config.objective, generator)
            eps_BCHW, t_B111 = torch.randn(batch.images_BCHW.shape, generator=generator), t_B[:, None, None, None]
            x_t_BCHW = (1 - t_B111) * batch.images_BCHW + t_B111 * eps_BCHW
            text = student.tokenize(captions)
            with torch.no_grad():
                target_BCHW = teacher(x_t_BCHW, t_B, text)
            error_BCHW = (student(x_t_BCHW, t_B, text) - target_BCHW) / t_B111.clamp(min=T_MIN)
            optimizer.zero_grad()
            error_BCHW.square().mean().backward()
            nn.utils.clip_grad_norm_(student.parameters(), inner.clip_norm)
            optimizer.step()
        self.work.save("distilled", Layout.of(student).flatten(student))
        return f"distilled: {config.run.total_images} images"
