"""What the check of a checkpoint proves, and what it does not: in words, for whoever is to rely on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusion_at_home.checkpoint.manifest import CheckpointManifest, CohortsManifest
from diffusion_at_home.checkpoint.signature import Trust, Vouched, check_folder
from diffusion_at_home.checkpoint.verify import verify_files


@dataclass(frozen=True, slots=True)
class Proof:
    """A checkpoint that was checked."""

    manifest: CheckpointManifest
    vouched: Vouched | None
    """None if it is not signed."""

    @property
    def proves(self) -> tuple[str, ...]:
        """A sentence each."""
        manifest, signed = self.manifest, self.vouched
        files = (
            f"Its {len(manifest.files)} files are as manifest.json lists them, byte for byte, and there is no other."
        )
        made_of_experts = isinstance(manifest, CohortsManifest)
        if made_of_experts:
            files += (
                " One is code, pipeline.py, the same that this version of diffusion-at-home writes; the weights of each expert "
                "are those of the checkpoint whose manifest lies in experts/."
            )
        if signed is None:
            return (files,)
        if not signed.trusted:
            whose = f"Whoever holds the key {signed.public_key} has signed that manifest."
            return (files, whose)
        name = f"checkpoint {manifest.name} of the run {manifest.run_id}"
        by = f"The release key {signed.public_key} has signed that manifest as {name}: it is the key that was given, or its heir."
        origin = (
            "checkpoints in experts/"
            if made_of_experts
            else f"{manifest.version} rounds in rounds.json, of these digests,"
        )
        word = (
            f"So it is the operator's word that it comes from the {origin} on the data set "
            f"{manifest.data.name} ({manifest.data.digest[:16]}...), by these contributors."
        )
        return (files, by, word)

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """A sentence each."""
        signed = self.vouched
        if signed is None:
            whose = ["Whose it is: nobody has signed it, and whoever gave it away may have made up all of it."]
        elif not signed.trusted:
            whose = [
                "Whose it is: nothing but the file itself names that key. Get the run's release key from where you trust it, "
                "and give it with --key."
            ]
        else:
            whose = [
                "That this key is its owner's alone, and not rotated since: only rotations that were given here count."
            ]
        return (
            *whose,
            "That the listed rounds were computed from that data, or that those contributors did the work.",
            "That nobody has poisoned the data or the rounds, or planted something in the model.",
            "That it is the newest checkpoint, or the best.",
        )


def prove(folder: Path, trust: Trust) -> Proof:
    """Check the checkpoint in `folder`: every file, then whose word its manifest is.

    Raises `IntegrityError` that names a file, `SignatureError` that says what is wrong with the signature.
    """
    return Proof(verify_files(folder), check_folder(folder, trust))
