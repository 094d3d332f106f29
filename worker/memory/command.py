"""What `dah worker plan` answers: for a run's address or a config file, on this machine or an imagined one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from diffusion_at_home.config.run import RunConfig
from diffusion_at_home.config.toml import load_toml
from diffusion_at_home.errors import ConfigError, HardwareError
from diffusion_at_home.frozen_text import frozen_kind
from diffusion_at_home.model.frozen import config_json, with_sizes
from diffusion_at_home.model.text import placeholder_tokenizer
from worker.http_line import open_http
from worker.memory.choice import GIB, Machine, MemoryPlan, Rung, describe, encodes_on_device, refusal
from worker.memory.encoding import encoding_bytes
from worker.memory.planning import make_plan
from worker.run_address import RunAddress, fetch_spec, find_run, pins


@dataclass(frozen=True, slots=True)
class Imagined:
    """What the machine would have; None is what it has."""

    vram: str | None
    ram: str | None
    devices: int | None

    def on(self, here: Machine) -> Machine:
        """`here` with that. Raises `ConfigError`."""
        host_bytes = here.host_bytes if self.ram is None else _size(self.ram, "--ram")
        machine = replace(here, host_bytes=host_bytes, devices=self.devices or here.devices)
        if self.vram is not None:
            return replace(machine, device_bytes=_size(self.vram, "--vram"), is_gpu=True, bf16=True)
        return machine if here.is_gpu else replace(machine, device_bytes=host_bytes)


def plan_command(
    source: Path | str, here: Machine, imagined: Imagined, *, try_all: bool
) -> tuple[MemoryPlan, dict[str, Any]]:
    """The plan for `source`, a config's path or a run's address, and the same as plain data.

    Raises `ConfigError`, `Unreachable`, `IntegrityError`.
    """
    config, tokenizer_json, encoder_json = _read(source)
    machine = imagined.on(here)
    made = make_plan(config, tokenizer_json, machine, try_all=try_all)
    return made, {
        "run": config.run.name,
        "machine": describe(machine),
        "device_gib": round(machine.device_bytes / GIB, 3),
        "host_gib": round(machine.host_bytes / GIB, 3),
        "rungs": [_plain(rung, config.inner.batch_images) for rung in made.rungs],
        "chosen": None if made.chosen is None else _plain(made.chosen, config.inner.batch_images),
        "reason": _reason(made, machine, config.run.name),
        "encoding": None if encoder_json is None else _encoding(config, encoder_json, made, machine),
    }


def read_source(source: Path | str) -> tuple[RunConfig, bytes]:
    """The run that a config's path or an address names, and its tokenizer or one of the same size. Raises as `plan_command`."""
    return _read(source)[:2]


def _read(source: Path | str) -> tuple[RunConfig, bytes, str | None]:
    """As `read_source`, and what a frozen text encoder says of itself."""
    return _from_file(source) if isinstance(source, Path) else _from_run(source)


def _encoding(config: RunConfig, encoder_json: str, made: MemoryPlan, machine: Machine) -> dict[str, Any]:
    """What the captions take before training, and where they are encoded, if training fits at all."""
    num_bytes = encoding_bytes(config.model, encoder_json)
    gib = round(num_bytes / GIB, 3)
    if made.chosen is None:
        return {"gib": gib, "place": None, "reason": "its captions are not encoded, as it is not trained"}
    try:
        place = "device" if encodes_on_device(num_bytes, made.chosen, machine, config.run.name) else "host"
    except HardwareError as error:
        return {"gib": gib, "place": None, "reason": str(error)}
    return {
        "gib": gib,
        "place": place,
        "reason": f"before it trains, its captions are encoded in {gib:.2f} GiB of the {place}",
    }


def _reason(made: MemoryPlan, machine: Machine, run: str) -> str:
    if made.chosen is None:
        return refusal(made, machine, run)
    place = made.rungs.index(made.chosen)
    if place == 0:
        return "it is the fastest way to train this run, and it fits"
    return f"it is the fastest that fits: {place} tried before it {'needs' if place == 1 else 'need'} more memory"


def _plain(rung: Rung, batch_images: int) -> dict[str, Any]:
    need = rung.need
    sizes = {
        "peak_gib": need.device_bytes,
        "weights_gib": need.weights_bytes,
        "gradients_gib": need.gradients_bytes,
        "optimizer_gib": need.optimizer_bytes,
        "activations_gib": need.activations_bytes,
        "with_overhead_gib": rung.device_bytes,
        "host_gib": rung.host_bytes,
    }
    return {
        "plan": str(rung.plan),
        "parts": asdict(rung.plan),
        **{name: round(size / GIB, 3) for name, size in sizes.items()},
        "tflop_per_image": float(f"{rung.plan.devices * need.flops / batch_images / 1e12:.3g}"),
        "slowdown": round(rung.slowdown, 3),
        "fits": rung.fits,
    }


def _size(text: str, option: str) -> int:
    try:
        return TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ConfigError(f"{option} {text!r} is not a size: give one like 6GiB") from None


def _from_file(path: Path) -> tuple[RunConfig, bytes, str | None]:
    config = load_toml(path, RunConfig)
    model = config.model
    if not model.text.frozen:
        return config, placeholder_tokenizer(model.text), None
    text, kind = model.text, frozen_kind(model.kind)
    model = model.model_copy(update={"text": with_sizes(text, kind)})  # as when the run is made
    return config.model_copy(update={"model": model}), b"", config_json(text, kind)


def _from_run(url: str) -> tuple[RunConfig, bytes, str | None]:
    address = RunAddress.parse(url)
    with open_http(pins([address])) as http:
        spec = fetch_spec(address, http, find_run(address, http))
    encoder = spec.text_encoder
    return spec.config, spec.tokenizer.encode(), None if encoder is None else encoder.config_json
