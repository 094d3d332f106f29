"""The coordinator is killed at arbitrary moments while it goes back: each order is carried out once."""

from __future__ import annotations

import random
import time
from contextlib import closing, suppress
from pathlib import Path

from coordinator.ledger import Ledger
from coordinator.orders import orders
from coordinator.records import ActionKind
from coordinator.replay import replay
from diffusion_at_home.errors import ConfigError
from tests.faults.processes import house
from tests.faults.supervisor import BUSY, Supervisor, settle
from tests.faults.traffic import traffic
from tests.unit.tiny_data import tiny_run_folder

KILLS = 5


def test_every_order_to_go_back_is_carried_out_once_wherever_it_is_killed(tmp_path: Path) -> None:
    folder = tiny_run_folder(tmp_path, *BUSY)
    moments = random.Random(3)
    with house(tmp_path) as home:
        supervisor = Supervisor(home, folder, tmp_path / "passed")
        run = supervisor.start()
        with traffic(run, 2) as volunteers:
            for _ in range(KILLS):
                newest = run.wait_for_version(run.status()["version"] + 2)["version"]
                with orders(folder) as operator, suppress(ConfigError):  # undone by the order before
                    operator.rollback(newest - 2, "")
                time.sleep(moments.uniform(0.2, 2.0))
                supervisor.process.kill()
                run = supervisor.start()
            run.wait_for_version(run.status()["version"] + 1)
        settle(supervisor, folder)
    with closing(Ledger(folder.ledger, read_only=True)) as ledger:
        given = [action.action_id for action in ledger.actions() if action.kind is ActionKind.ROLLBACK]
        done = [version.action_id for version in ledger.versions() if version.back_to is not None]
        stored = {contribution.contribution_id for n in range(1, 1000) for contribution in ledger.contributions(n)}
    assert done == sorted(set(done))
    assert set(done) <= set(given)
    assert done[-1] == given[-1]
    assert {receipt.contribution_id for receipt in volunteers.receipts} <= stored
    assert set(volunteers.refusals) <= {"REFUSAL_LEASE_EXPIRED", "REFUSAL_ROUND_CLOSED"}
    assert replay(folder).versions > 2 * KILLS
