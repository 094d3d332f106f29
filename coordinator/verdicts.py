"""Decides which contributions of a closing round count, and how much: a pure function of what is known of them.

A round's deltas start from the same weights and mostly agree: an honest one is about as long as the others and points, more or
less, where their sum points. What does not is left out, the worst first, as each changes what the others are compared with. A
delta that is all too like another's is a copy, and the later one goes. With fewer workers than `screening.least_workers` nobody
can say who is the odd one, and only what has no length is left out. Never is everything.

What counts is weighed by its images; newcomers have at most `screening.newcomer_share` of the round together. Then lengths are
clipped, by scales which the mean is taken with: see `_scales`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from coordinator.records import Contribution, Fault, Verdict
from coordinator.sketch import COSINE_ERROR, Sketch
from diffusion_at_home.config.trust import AggregationRule, AggregationSection, ScreeningSection
from diffusion_at_home.identity import WorkerId

_LENGTH_POWER: Final = 0.75
"""Length goes with images to this power: between a straight walk, 1, and a random one, 1/2."""

_DOUBT: Final = 4 * COSINE_ERROR
"""Less than this tells nothing: an honest delta of sparse codecs shares few places with the others."""

_CENTERING_STEPS: Final = 3


@dataclass(frozen=True, slots=True)
class Given:
    """A contribution of the closing round, in the order in which they came."""

    contribution: Contribution
    sketch: Sketch
    is_newcomer: bool
    copies: bool
    """Whether the same bytes were handed in before, whenever."""
    is_banned: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """What the config says."""

    screening: ScreeningSection
    aggregation: AggregationSection


def decide(given: Sequence[Given], rules: Rules) -> list[Verdict]:
    """A verdict for each of `given`."""
    if not given:
        return []
    round_ = _Round(given)
    banned = {index: Fault.BANNED for index, one in enumerate(given) if one.is_banned}
    faults = dict(banned)
    if rules.screening.enabled:
        faults |= _faults(round_, [index for index in range(len(given)) if index not in faults], rules.screening)
    if len(faults) == len(given):
        # A round needs something to be made of, and all alike are nobody's fault.
        faults = banned if len(banned) < len(given) else {}
    counted = [index for index in range(len(given)) if index not in faults]
    weights = _weights(given, counted, rules.screening)
    scales = _scales(round_, counted, weights, rules.aggregation)
    cosines = round_.cosines(counted)
    return [
        Verdict(
            lease_id=one.contribution.lease_id,
            worker_id=one.contribution.worker_id,
            round_number=one.contribution.round_number,
            weight=weights.get(index, 0.0),
            scale=scales.get(index, 0.0),
            norm=one.sketch.norm,
            cosine=cosines[index],
            fault=faults.get(index, Fault.NONE),
        )
        for index, one in enumerate(given)
    ]


def uncounted(one: Given) -> Verdict:
    """Of what trained a lease again, which is in no mean: whether it is credit all the same."""
    fault = Fault.NONE
    if one.sketch.norm == 0:
        fault = Fault.UNCHANGED
    elif one.copies:
        fault = Fault.COPIED
    elif one.is_banned:
        fault = Fault.BANNED
    given = one.contribution
    return Verdict(given.lease_id, given.worker_id, given.round_number, 0.0, 0.0, one.sketch.norm, None, fault)


class _Round:
    """All contributions against each other. g and h are two of the n."""

    def __init__(self, given: Sequence[Given]) -> None:
        self.workers = [one.contribution.worker_id for one in given]
        self.images_g = torch.tensor([one.contribution.images for one in given], dtype=torch.float64)
        self.norms_g = torch.tensor([one.sketch.norm for one in given], dtype=torch.float64)
        sums_gs = torch.stack([one.sketch.sums for one in given])
        lengths_g = sums_gs.norm(dim=1, keepdim=True)
        directions_gs = torch.where(lengths_g > 0, sums_gs / lengths_g, 0.0)
        self.cosines_gh = (directions_gs @ directions_gs.T).double().clamp(-1, 1)
        self.copies = [one.copies for one in given]
        self._same_gh = torch.tensor([[float(a == b) for b in self.workers] for a in self.workers], dtype=torch.float64)
        """1 where both are one worker's."""
        self._own_gh = self.cosines_gh * self._same_gh
        self.steps: list[float] = (self.norms_g / self.images_g**_LENGTH_POWER).tolist()
        """Lengths, as if all had trained one image."""

    def median_step(self, among: Sequence[int]) -> float:
        """Of the workers' mean lengths: who has many leases counts once."""
        by_worker: dict[WorkerId, list[float]] = {}
        for index in among:
            by_worker.setdefault(self.workers[index], []).append(self.steps[index])
        means = [sum(steps) / len(steps) for steps in by_worker.values()]
        return float(torch.tensor(means, dtype=torch.float64).quantile(0.5)) if means else 0.0

    def cosines(self, among: Sequence[int]) -> list[float | None]:
        """Of each to the sum of the other workers' among `among`, all of one length an image; None if there are none."""
        weights_g = torch.zeros_like(self.images_g)
        weights_g[list(among)] = self.images_g[list(among)]
        to_all_g = self.cosines_gh @ weights_g
        to_own_g = self._own_gh @ weights_g
        # The square of the whole sum's length, then that of the sum without a worker's own.
        squares_g = weights_g @ to_all_g - self._same_gh @ (weights_g * (2 * to_all_g - to_own_g))
        others_g = weights_g.sum() - self._same_gh @ weights_g
        known_g = (others_g > 0) & (squares_g > 1e-9 * others_g**2) & (self.norms_g > 0)
        cosines_g = (to_all_g - to_own_g) / squares_g.clamp(min=1e-300).sqrt()
        return [cosine if known else None for cosine, known in zip(cosines_g.tolist(), known_g.tolist(), strict=True)]


def _faults(round_: _Round, everybody: Sequence[int], section: ScreeningSection) -> dict[int, Fault]:
    """Who of `everybody` is left out, and why."""
    faults = {index: Fault.UNCHANGED for index in everybody if round_.norms_g[index] == 0}
    faults |= {index: Fault.COPIED for index in everybody if round_.copies[index] and index not in faults}
    faults |= _copies(round_, [index for index in everybody if index not in faults], section)
    if len({round_.workers[index] for index in everybody}) < section.least_workers:
        return faults
    kept = [index for index in everybody if index not in faults]
    median = round_.median_step(kept)
    for index in kept:
        times = round_.steps[index] / median
        if not 1 / section.most_length <= times <= section.most_length:
            faults[index] = Fault.OUTLIER
    kept = [index for index in kept if index not in faults]
    while len({round_.workers[index] for index in kept}) >= section.least_workers:
        worst = _most_opposed(round_, kept, section)
        if worst is None:
            break
        faults[worst] = Fault.OPPOSED
        kept.remove(worst)
    return faults


def _copies(round_: _Round, among: Sequence[int], section: ScreeningSection) -> dict[int, Fault]:
    """Those that are like an earlier one."""
    found: dict[int, Fault] = {}
    earlier_g = torch.zeros(len(round_.workers), dtype=torch.bool)
    for index in among:
        if bool((round_.cosines_gh[index][earlier_g] >= section.copy_cosine).any()):
            found[index] = Fault.COPIED
        else:
            earlier_g[index] = True
    return found


def _most_opposed(round_: _Round, kept: Sequence[int], section: ScreeningSection) -> int | None:
    """Who agrees least with the others, if that is too little."""
    cosines = round_.cosines(kept)
    found = {index: cosine for index in kept if (cosine := cosines[index]) is not None}
    if not found:
        return None
    median = float(torch.tensor(list(found.values()), dtype=torch.float64).quantile(0.5))
    worst = min(found, key=found.__getitem__)
    return worst if found[worst] < section.least_cosine * median - _DOUBT else None


def _weights(given: Sequence[Given], counted: Sequence[int], section: ScreeningSection) -> dict[int, float]:
    """Images, less what newcomers have too much."""
    weights = {index: given[index].contribution.weight for index in counted}
    newcomers = [index for index in counted if given[index].is_newcomer]
    theirs = sum(weights[index] for index in newcomers)
    others = sum(weights.values()) - theirs
    most = others * section.newcomer_share / (1 - section.newcomer_share) if section.newcomer_share < 1 else theirs
    if section.enabled and others > 0 and theirs > most:
        for index in newcomers:
            weights[index] *= most / theirs
    return weights


def _scales(
    round_: _Round, counted: Sequence[int], weights: Mapping[int, float], section: AggregationSection
) -> dict[int, float]:
    """What each delta is multiplied by before it is averaged.

    All rules clip lengths to `clip` times the median's. `centered_clip` clips the distance from the mean of what is so
    clipped instead, a few times over (Karimireddy, He and Jaggi 2021, arXiv:2012.10333, algorithm 2, without the workers'
    momentum): its centre is always a sum of the deltas, so what it comes to is a scale for each.
    """
    bounds_g = section.clip * round_.median_step(counted) * round_.images_g**_LENGTH_POWER
    scales = {
        index: min(1.0, float(bounds_g[index] / round_.norms_g[index]))
        if section.clip and round_.norms_g[index] > 0
        else 1.0
        for index in counted
    }
    if section.rule is not AggregationRule.CENTERED_CLIP or not section.clip:
        return scales
    order = list(counted)
    norms_g = round_.norms_g[order]
    inner_gh = round_.cosines_gh[order][:, order] * norms_g[:, None] * norms_g
    weights_g = torch.tensor([weights[index] for index in order], dtype=torch.float64)
    shares_g = weights_g / weights_g.sum()
    center_g = shares_g * torch.tensor([scales[index] for index in order], dtype=torch.float64)
    for _ in range(_CENTERING_STEPS):
        squares_g = inner_gh.diagonal() - 2 * inner_gh @ center_g + center_g @ inner_gh @ center_g
        distances_g = squares_g.clamp(min=0).sqrt()
        radius = float(distances_g.quantile(0.5))
        clipped_g = shares_g * torch.where(distances_g > radius, radius / distances_g, 1.0)
        center_g = center_g * (1 - clipped_g.sum()) + clipped_g
    return {index: float(center_g[place] / shares_g[place]) for place, index in enumerate(order)}
