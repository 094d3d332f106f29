"""A coordinator judges its checkpoints beside the rounds, and nothing that befalls a judgement is the run's."""

from __future__ import annotations

import io
import signal
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from coordinator.backup import back_up
from coordinator.ledger import Ledger
from coordinator.restore import restore
from coordinator.run_folder import RunFolder
from diffusion_at_home.checkpoint.download import list_checkpoints
from diffusion_at_home.evaluation.evaluate import EvaluationPlan, evaluate
from diffusion_at_home.evaluation.small_encoder import SmallEncoder
from tests.faults.processes import house, wait_until
from tests.integration.command_line import dah
from tests.integration.judging_process import JUDGED, is_gone, judging_process, judging_processes, ready_encoder
from tests.integration.live_run import LiveRun, Volunteer, encoded, serving, volunteers
from tests.unit.tiny_data import tiny_run_folder

pytestmark = pytest.mark.timeout(900)

PATIENCE_SECONDS = 500.0
"""A judgement gets only the time that nobody else wants."""


def train(run: LiveRun, anna: Volunteer, rounds: int) -> None:
    before = run.status()["version"]
    for number in range(before + 1, before + rounds + 1):
        anna.submit(anna.lease(), encoded(run, 0.001))
        run.wait_for_version(number)


def judged(run: LiveRun) -> list[str]:
    return [judgement["checkpoint"] for judgement in run.status()["judgements"]]


def problems(run: LiveRun) -> dict[str, str]:
    return {problem["name"]: problem["sentence"] for problem in run.status()["live"]["problems"]}


@pytest.mark.slow  # the process comes behind all other tests
def test_rounds_go_on_while_a_checkpoint_is_judged_and_its_figures_arrive(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED, "judging.pictures=100", "judging.steps=10")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 2)
        process = judging_process()
        train(run, anna, 4)
        assert not is_gone(process)
        status = run.status()
        assert (status["version"], status["judgements"]) == (6, [])
        assert status["live"]["judging"]["checkpoint"] == "tiny-0000000032"
        wait_until(lambda: judged(run), patience_seconds=PATIENCE_SECONDS)
        newest = run.status()["checkpoints"][-1]["name"]
        assert newest > "tiny-0000000032"
        wait_until(lambda: run.status()["live"]["judging"]["checkpoint"] == newest)
        assert_is_shown(run)
    assert judging_processes() == []
    assert_is_what_the_command_finds(folder, tmp_path / "data")
    assert_is_backed_up(folder, tmp_path)


def assert_is_shown(run: LiveRun) -> None:
    (found,) = run.get("/judgements.json").json()["judgements"]
    assert (found["checkpoint"], found["images"], found["own_data"]) == ("tiny-0000000032", 32, True)
    listed = next(c for c in list_checkpoints(run.url).checkpoints if c.images == 32)
    assert listed.judged is not None
    assert listed.judged.kernel == found["kernel"]["value"]
    assert listed.judged.retrieval == found["retrieval"]["top1"]["value"]
    (short,) = run.status()["judgements"]
    assert (short["frechet"], short["encoder_sha256"]) == (found["frechet"]["value"], found["encoder_sha256"])
    for name in found["sheets"]:
        with Image.open(io.BytesIO(run.get(f"/judgements/tiny-0000000032/{name}").content)) as picture:
            assert picture.format == "PNG"
    assert set(found["sheets"]) == {"grid.png", "trained.png"}
    for name in run.get("/judgements.json").json()["files"]:
        assert run.get(f"/judgements/{name}").status_code == 200
    for path in ("judgements/tiny-0000000032/encoder.json", "judgements/none/grid.png", "judgements/ledger.sqlite"):
        assert run.get(f"/{path}").status_code == 404
    assert b'dah_judgements_total{outcome="judged"} 1.0' in run.get("/metrics").content


def assert_is_what_the_command_finds(folder: RunFolder, data: Path) -> None:
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        judgement = next(judgement for judgement in ledger.judgements() if judgement.images == 32)
    plan = EvaluationPlan(
        checkpoint=folder.checkpoints / judgement.checkpoint,
        data=data,
        out=folder.root.parent / "evaluation",
        encoder=folder.encoder,
        pictures=100,
        real=100,
        steps=10,
    )
    found = evaluate(plan)
    assert found.encoder_sha256 == judgement.encoder_sha256 == SmallEncoder.load(folder.encoder).sha256
    assert (found.kernel.value, found.retrieval.top1.value) == (judgement.kernel, judgement.retrieval)


def assert_is_backed_up(folder: RunFolder, tmp_path: Path) -> None:
    back_up(folder, RunFolder(tmp_path / "backup"))
    restored = RunFolder(tmp_path / "restored")
    restore(RunFolder(tmp_path / "backup"), restored)
    sheets = {str(path.relative_to(folder.root)) for path in folder.judgements.glob("*/*.png")}
    encoder = {str(path.relative_to(folder.root)) for path in folder.encoder.iterdir()}
    assert len(sheets) == 2
    assert len(encoder) == 2
    for name in sheets | encoder:
        assert (restored.root / name).read_bytes() == (folder.root / name).read_bytes()


def test_judgement_that_is_killed_is_a_problem_until_the_next_start_tries_it_again(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED, ready_encoder(tmp_path))
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 2)
        judging_process().kill()
        wait_until(lambda: problems(run))
        assert problems(run) == {
            "judging_failed": "tiny-0000000032 could not be judged (its process was killed by SIGKILL): at the next start "
            "it is tried again"
        }
        train(run, anna, 1)
        (failed,) = run.status()["failed_judgements"]
        assert (failed["checkpoint"], failed["number"]) == ("tiny-0000000032", 1)
        assert judging_processes() == []
    with serving(folder) as run:
        wait_until(lambda: judged(run) == ["tiny-0000000032"], patience_seconds=PATIENCE_SECONDS)
        assert problems(run) == {}
    found = dah("coordinator", "status", folder.root, "--json").result
    assert found["latest_judgement"]["checkpoint"] == "tiny-0000000032"


def test_stop_ends_the_judging_process_at_once_and_counts_as_no_try(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED, ready_encoder(tmp_path))
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            train(run, anna, 2)
        process = judging_process(coordinator.pid)
        process.send_signal(signal.SIGTERM)  # as a service manager does, which stops all processes of a service
        assert coordinator.terminate() == 0, coordinator.output
        assert is_gone(process)
    assert not folder.judging.exists()
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        assert ledger.judged() == [], "it was waited for"
        assert ledger.failed_judgements() == []


@pytest.mark.slow
def test_judging_process_dies_with_its_coordinator_which_counts_as_a_try(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED, ready_encoder(tmp_path))
    with house(tmp_path) as home:
        coordinator, run = home.coordinator(folder)
        with volunteers(run, 1) as (anna,):
            train(run, anna, 2)
        process = judging_process(coordinator.pid)
        coordinator.kill()
        wait_until(lambda: is_gone(process))
        coordinator, run = home.coordinator(folder)
        (failed,) = run.status()["failed_judgements"]
        assert failed["reason"] == "the coordinator ended meanwhile"
        assert judging_process(coordinator.pid).pid != process.pid
        assert coordinator.terminate() == 0, coordinator.output


def test_judgement_that_wants_more_memory_than_it_may_have_fails_and_says_so(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *JUDGED, "judging.memory_gib=0.3")
    with serving(folder) as run, volunteers(run, 1) as (anna,):
        train(run, anna, 2)
        wait_until(lambda: problems(run), patience_seconds=PATIENCE_SECONDS)
        assert "memory" in problems(run)["judging_failed"]
