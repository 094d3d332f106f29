"""What the run has published: every checkpoint with what it is worth, and one by one its files, with how to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.web.paging import Paging, page_of
from coordinator.web.previews import preview_url
from coordinator.web.sources import Sources
from diffusion_at_home.checkpoint.listing import CheckpointListing, ListedCheckpoint, file_path
from diffusion_at_home.checkpoint.manifest import MANIFEST_NAME
from diffusion_at_home.errors import DahError


@dataclass(frozen=True, slots=True)
class Offer:
    """One checkpoint."""

    name: str
    version: int
    images: int
    """Trained."""
    created: str
    """ISO 8601, UTC."""
    size_bytes: int
    manifest_sha256: str
    signed: bool
    """Whether the operator's signature is beside it."""
    default_weights: str
    """raw, or ema: the average."""
    held_out_loss: float | None
    frechet: float | None
    """Distance to training pictures; None until it is judged, as all that follow."""
    kernel: float | None
    retrieval: float | None
    """Share of drawn pictures that lead back to the picture of their caption."""
    unseen: float | None
    """The same of captions that are new."""
    is_latest: bool
    is_best: bool
    """Has the lowest held-out loss."""


@dataclass(frozen=True, slots=True)
class DownloadsView:
    """One page of them, the newest first; latest and best are on each."""

    address: str
    run: str
    license: str
    """Of the checkpoints."""
    release_key: str | None
    """Whose signatures count (hex); None if the run names none."""
    latest: Offer | None
    best: Offer | None
    paging: Paging
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """One file of a checkpoint."""

    path: str
    size_bytes: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """The page of one checkpoint."""

    address: str
    base_url: str
    """Without the fingerprint."""
    pinned: bool
    """Whether the run's certificate is its own, which only its software knows."""
    offer: Offer
    license: str
    data_name: str
    data_license: str
    grid: str | None
    """Where its pictures are."""
    preview: str | None
    """The same in fewer bytes."""
    call: str
    """How the pipeline is best called with an example: what stands in its brackets, in Python."""
    contributors: int
    files: tuple[OfferedFile, ...]
    """The largest first."""


async def read_downloads(sources: Sources, page: str) -> DownloadsView:
    """Page number `page`."""
    listing = await sources.checkpoints.listing()
    offers = [_offer(listed, listing) for listed in reversed(listing.checkpoints)]
    paging, shown = page_of(offers, page)
    return DownloadsView(
        address=sources.address,
        run=listing.run,
        license=sources.spec.config.run.license,
        release_key=listing.release_key,
        latest=next((offer for offer in offers if offer.is_latest), None),
        best=next((offer for offer in offers if offer.is_best), None),
        paging=paging,
        offers=tuple(shown),
    )


async def read_checkpoint(sources: Sources, name: str) -> CheckpointView | None:
    """Of the checkpoint `name`; None if there is none that is offered, or its manifest is damaged, which the problems say."""
    listing = await sources.checkpoints.listing()
    offer = next((_offer(listed, listing) for listed in listing.checkpoints if listed.name == name), None)
    try:
        manifest = None if offer is None else await sources.checkpoints.manifest(name)
    except DahError:
        return None
    if offer is None or manifest is None:
        return None
    files = [
        OfferedFile(path, entry.size_bytes, entry.sha256, file_path(name, path))
        for path, entry in manifest.files.items()
    ]
    grid = "grid.png" in manifest.files
    return CheckpointView(
        address=sources.address,
        base_url=sources.address.partition("#")[0].rstrip("/"),
        pinned="#" in sources.address,
        offer=offer,
        license=manifest.license,
        data_name=manifest.data.name,
        data_license=manifest.data.license,
        grid=file_path(name, "grid.png") if grid else None,
        preview=preview_url(name) if grid else None,
        call=_call(next(iter(sources.spec.config.checkpoint.grid_prompts), "a picture"), manifest.call),
        contributors=len(manifest.contributors),
        files=(
            *sorted(files, key=lambda file: (-file.size_bytes, file.path)),
            OfferedFile(MANIFEST_NAME, 0, offer.manifest_sha256, file_path(name, MANIFEST_NAME)),
        ),
    )


def _call(prompt: str, values: Mapping[str, bool | int | float]) -> str:
    return ", ".join((repr(prompt), *(f"{name}={value!r}" for name, value in values.items())))


def _offer(listed: ListedCheckpoint, listing: CheckpointListing) -> Offer:
    judged = listed.judged
    return Offer(
        name=listed.name,
        version=listed.version,
        images=listed.images,
        created=listed.created,
        size_bytes=listed.size_bytes,
        manifest_sha256=listed.manifest_sha256,
        signed=listed.signed,
        default_weights=listed.default_weights,
        held_out_loss=listed.held_out_loss,
        frechet=judged.frechet if judged else None,
        kernel=judged.kernel if judged else None,
        retrieval=judged.retrieval if judged else None,
        unseen=judged.unseen if judged else None,
        is_latest=listed.name == listing.latest,
        is_best=listed.name == listing.best,
    )
