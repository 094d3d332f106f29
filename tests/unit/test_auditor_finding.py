"""What figures are taken to mean, and which machine may take them."""

from __future__ import annotations

import pytest

from diffusion_at_home.audit.agreement import Agreement
from diffusion_at_home.audit.records import LeaseRecord, RangeRecord
from diffusion_at_home.audit.tolerances import tolerances
from diffusion_at_home.config.run import Codec
from diffusion_at_home.errors import HardwareError
from diffusion_at_home.kept_weights import KeptWeights
from worker.auditor.audit import require_exact_weights
from worker.auditor.finding import Outcome
from worker.auditor.recompute import judged
from worker.step.masters import WeightKind
from worker.step.plan import StepPlan

RECORD = LeaseRecord(
    lease_id=7,
    round=3,
    worker_id="0" * 16,
    public_key="0" * 64,
    base_version=2,
    base_digest="0" * 64,
    ranges=(RangeRecord(epoch=0, shard=0, start=0, count=16),),
    seed=1,
    learning_rate=1e-3,
    codec=Codec.INT8,
    images=16,
    sha256="0" * 64,
    size_bytes=100,
    signature="",
    weights=KeptWeights.ROUNDED,
    weight=0.0,
    left_out="opposed",
)


@pytest.mark.parametrize(
    ("kept", "share", "exact", "outcome"),
    [
        (KeptWeights.EXACT, 0.0, True, Outcome.AGREES),
        (KeptWeights.EXACT, 0.5, False, Outcome.AGREES),
        (KeptWeights.EXACT, 1.5, False, Outcome.UNCHECKED),
        (KeptWeights.EXACT, 2.5, False, Outcome.DISAGREES),
        (KeptWeights.EXACT, 3.5, False, Outcome.DISAGREES),
        (KeptWeights.ROUNDED, 0.5, False, Outcome.AGREES),
        (KeptWeights.ROUNDED, 1.5, False, Outcome.UNCHECKED),
        (KeptWeights.ROUNDED, 2.5, False, Outcome.UNCHECKED),
        (KeptWeights.ROUNDED, 3.5, False, Outcome.DISAGREES),
    ],
)
def test_who_says_that_it_keeps_weights_exactly_is_held_to_it(
    kept: KeptWeights, share: float, exact: bool, outcome: Outcome
) -> None:
    """From the same numbers (0) over the close tolerance (1), the doubtful one (2) and the loose one (3), and beyond."""
    allowed = tolerances(Codec.INT8)
    edges = (1.0, *(t.least_cosine for t in (allowed.close, allowed.doubtful, allowed.loose)), 0.0)
    place = int(share)
    cosine = edges[place] + (share - place) * (edges[place + 1] - edges[place])
    found = judged(RECORD.model_copy(update={"weights": kept}), Agreement(cosine, 1.0, exact), 24.0)
    assert (found.outcome, found.agreement is not None) == (outcome, True)


def test_a_finding_is_a_sentence_that_names_lease_worker_and_what_the_run_made_of_it() -> None:
    words = str(judged(RECORD, Agreement(-1.0, 1.0, exact=False), 24.0))
    assert words.startswith(f"lease 7 (round 3, worker {'0' * 16}, 16 images) disagrees: cosine -1.0000")
    assert words.endswith("the run left it out as opposed")


def test_whoever_rounds_at_random_judges_nobody() -> None:
    require_exact_weights(StepPlan(WeightKind.SPLIT))
    with pytest.raises(HardwareError, match="--device cpu"):
        require_exact_weights(StepPlan(WeightKind.STOCHASTIC, checkpointing=True))


def test_a_few_leaves_have_to_be_farther_off_before_anybody_is_accused() -> None:
    cosine = tolerances(Codec.SPARSE).loose.least_cosine - 0.05
    whole, shown = (RECORD.model_copy(update={"residual_after": root}) for root in ("", "1" * 64))
    assert judged(whole, Agreement(cosine, 1.0, exact=False), 24.0).outcome is Outcome.DISAGREES
    found = judged(shown, Agreement(cosine, 1.0, exact=False), 24.0)
    assert found.outcome is Outcome.UNCHECKED
    assert "in the parts that were shown" in found.why
    for agreement in (Agreement(0.6, 1.0, exact=False), Agreement(1.0, 1.5, exact=False), Agreement(0.9, 0.6, False)):
        assert judged(shown, agreement, 24.0).outcome is Outcome.DISAGREES
