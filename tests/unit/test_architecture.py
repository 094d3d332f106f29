"""The shape of the code: who may import whom, who owns which library, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.unit.tiny_run import REPOSITORY

PACKAGES = ("coordinator", "worker", "diffusion_at_home")
GENERATED = "diffusion_at_home/rpc/coordinator_pb2"
MODULES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for package in PACKAGES
    for path in (REPOSITORY / package).rglob("*.py")
    if not path.relative_to(REPOSITORY).as_posix().startswith(GENERATED)
)
BOTH_SIDES = ("diffusion_at_home/cli/", "diffusion_at_home/demo/")
MOST_LINES = 600

OWNERS = {
    "accelerate": ("worker/device.py", "worker/step/out_of_memory.py"),
    "alembic": ("coordinator/migrations/",),
    "bitsandbytes": ("worker/step/rules.py",),
    "cryptography": (
        "coordinator/certificate.py",
        "coordinator/receipts.py",
        "diffusion_at_home/checkpoint/release_key.py",
        "diffusion_at_home/identity.py",
        "diffusion_at_home/signing_key.py",
    ),
    "diffusers": (
        "diffusion_at_home/model/",
        "diffusion_at_home/cohorts/pipeline.py",
        "diffusion_at_home/checkpoint/single_file.py",
        "diffusion_at_home/checkpoint/stock.py",
        "diffusion_at_home/demo/score.py",
    ),
    "ftfy": ("diffusion_at_home/model/text.py",),
    "grpc": (
        "coordinator/service.py",
        "coordinator/parsing.py",
        "coordinator/app.py",
        "worker/client.py",
        "diffusion_at_home/refusals.py",
    ),
    "grpc_health": ("coordinator/app.py", "worker/client.py"),
    "httpcore2": ("worker/http_line.py",),
    "httpx2": (
        "coordinator/alerts/post.py",
        "coordinator/doctor/address.py",
        "coordinator/mirroring/",
        "diffusion_at_home/checkpoint/download.py",
        "diffusion_at_home/checkpoint/push.py",
        "diffusion_at_home/demo/",
        "worker/auditor/",
        "worker/blobs.py",
        "worker/doctor/",
        "worker/http_line.py",
        "worker/receiving.py",
        "worker/run_address.py",
        "worker/run_line.py",
        "worker/whereabouts.py",
    ),
    "huggingface_hub": ("diffusion_at_home/checkpoint/push.py",),
    "jinja2": ("coordinator/web/rendering.py",),
    "matplotlib": ("diffusion_at_home/evaluation/plot.py",),
    "obstore": ("coordinator/elsewhere/bucket.py",),
    "platformdirs": ("worker/settings.py",),
    "prometheus_client": ("coordinator/metrics.py", "coordinator/web/"),
    "psycopg": ("coordinator/database/postgresql.py",),
    "pyarrow": ("diffusion_at_home/data/sources/parquet.py",),
    "pynvml": ("worker/conditions/cards.py", "worker/nvidia.py"),
    "rich": ("diffusion_at_home/cli/", "worker/daemon.py", "worker/live_line.py"),
    "sklearn": (
        "diffusion_at_home/cohorts/captions.py",
        "diffusion_at_home/data/digits.py",
        "diffusion_at_home/evaluation/digits_judge.py",
    ),
    "sqlalchemy": (
        "coordinator/database/",
        "coordinator/lease_queries.py",
        "coordinator/opinion_queries.py",
        "coordinator/ledger.py",
        "coordinator/migrations/",
        "coordinator/open_ledger.py",
        "coordinator/page_queries.py",
        "coordinator/tables.py",
    ),
    "starlette": ("coordinator/mirroring/", "coordinator/web/"),
    "structlog": ("diffusion_at_home/events.py",),
    "tenacity": ("coordinator/alerts/messenger.py", "diffusion_at_home/checkpoint/download.py"),
    "tokenizers": ("diffusion_at_home/model/text.py", "diffusion_at_home/model/chosen_tokenizer.py"),
    "tomlkit": ("worker/control/settings_file.py",),
    "transformers": (
        "diffusion_at_home/model/",
        "diffusion_at_home/cohorts/pipeline.py",
        "diffusion_at_home/checkpoint/single_file.py",
        "diffusion_at_home/checkpoint/stock.py",
        "diffusion_at_home/evaluation/vision_encoder.py",
    ),
    "typer": ("diffusion_at_home/cli/",),
    "uvicorn": ("coordinator/web/",),
}

HEAVY = ("torch", "numpy", "grpc", "transformers", "diffusers", "accelerate", "bitsandbytes", "sqlalchemy")
"""What --help must not load: each takes longer than a person waits for a page of text (typer itself loads pydantic)."""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Dotted names of everything `module` imports, wherever in it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relative to itself: say where from"
            yield node.module or ""


def top_levels(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 60
    assert all((REPOSITORY / module).is_file() for module in MODULES)


@pytest.mark.parametrize(("side", "other"), [("coordinator", "worker"), ("worker", "coordinator")])
def test_the_two_sides_never_import_each_other(side: str, other: str) -> None:
    assert [module for module in MODULES if module.startswith(f"{side}/") and other in top_levels(module)] == []


def test_what_both_sides_share_imports_neither() -> None:
    shared = [m for m in MODULES if m.startswith("diffusion_at_home/") and not m.startswith(BOTH_SIDES)]
    assert [module for module in shared if top_levels(module) & {"coordinator", "worker"}] == []


def test_nothing_but_the_command_line_is_above_it() -> None:
    allowed = ("diffusion_at_home/cli/", "diffusion_at_home/__main__.py")
    others = [module for module in MODULES if not module.startswith(allowed)]
    assert [m for m in others if any(name.startswith("diffusion_at_home.cli") for name in imports(m))] == []


def test_no_package_imports_tests_or_scripts() -> None:
    assert [module for module in MODULES if top_levels(module) & {"tests", "scripts"}] == []


@pytest.mark.parametrize("library", OWNERS)
def test_a_large_library_is_known_to_its_owners_only(library: str) -> None:
    users = [module for module in MODULES if library in top_levels(module)]
    assert users, f"nobody uses {library}: take it out of this table"
    assert [module for module in users if not module.startswith(OWNERS[library])] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is_and_stays_small(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    assert len((REPOSITORY / module).read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_nothing_is_ever_unpickled() -> None:
    for module in MODULES:
        assert not top_levels(module) & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, module
        calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
        assert "torch.load" not in [ast.unparse(call) for call in calls], module


@pytest.mark.parametrize(
    "page", [[], ["--version"], *([name] for name in ("data", "worker", "checkpoint", "cohorts", "coordinator"))]
)
def test_help_loads_nothing_heavy(page: list[str]) -> None:
    code = (
        "import sys; from diffusion_at_home.cli import main\n"
        "try: main()\n"
        "finally: print('loaded', *sorted(sys.modules))"
    )
    arguments = page if page == ["--version"] else [*page, "--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert loaded[0] == "loaded"
    assert [name for name in loaded if name in HEAVY] == []


def test_building_a_data_set_loads_no_torch() -> None:
    """Each of its processes would take that much more memory, and seconds to start."""
    code = "import sys, diffusion_at_home.data.build, diffusion_at_home.data.reading; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "False\n"
