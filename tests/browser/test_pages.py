"""The pages in a real browser, at phone and desktop width, light and dark: no error, no overflow, nothing that axe calls serious.

Chromium is the system's (`apt-get install chromium`), driven by Playwright (extra `browser`); where either is missing, these
tests are skipped. axe-core lies in `vendor/` as it was published.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from benchmarks.pages.made_up import Extent, MadeUp, make, site_of, worker_id
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from coordinator.web.guard import Guard
from coordinator.web.server import bind

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
PHONE, DESKTOP = 390, 1280
EXTENT = Extent(
    workers=150,
    rounds=400,
    contributions=4000,
    live=130,
    shards=300,
    checkpoints=6,
    actions=120,
    names=(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "Mira",
        "a name of sixty-four letters, as long as they come, with no end",
    ),
)
PAGES = (
    "/",
    "/machines",
    "/contributors?period=month",
    f"/workers/{worker_id(2)}",
    "/volunteers/Mira",
    "/teams/team%201",
    "/downloads",
    f"/downloads/year-{EXTENT.round_images * 396:010d}",
    "/status",
    "/log",
    "/join",
    "/nowhere",
)
LOOK = """async () => {
  const found = await axe.run(document, {resultTypes: ["violations"]});
  return found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => `${one.id}: ${one.nodes.map((node) => node.target + " " + node.failureSummary).join("; ")}`);
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    made = make(tmp_path_factory.mktemp("browser") / "run", EXTENT)
    grid = made.folder.root / "grid.png"
    Image.linear_gradient("L").resize((728, 200)).save(grid)
    with served(made, grid) as address:
        yield address


@contextmanager
def served(made: MadeUp, grid: Path) -> Iterator[str]:
    """The pages on a port of loopback, with `grid` as every checkpoint's picture."""

    async def picture(request: Any) -> Response:  # noqa: ARG001
        return FileResponse(grid)

    listener = bind("127.0.0.1", 0, "port")
    with site_of(made) as site:
        routes = [Route("/pictures/{name}", picture), *site.routes()]
        app = Guard(Starlette(routes=routes, exception_handlers={HTTPException: site.failed}))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


class Tab:
    """One page of the browser, which remembers what went wrong."""

    def __init__(self, browser: Any, width: int, scheme: str) -> None:
        # axe is put into the page by the test, which the page's own policy rightly forbids to scripts.
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"a dialog: {dialog.message}"))

    def open(self, address: str) -> None:
        self.page.goto(address, wait_until="load")
        if address.endswith("/"):
            self.page.wait_for_selector("canvas")


@pytest.fixture
def tab(browser: Any) -> Iterator[Callable[[int, str], Tab]]:
    opened: list[Tab] = []

    def open_tab(width: int, scheme: str) -> Tab:
        opened.append(Tab(browser, width, scheme))
        return opened[-1]

    yield open_tab
    for one in opened:
        one.context.close()


def look(tab: Tab, url: str, path: str) -> list[str]:
    """What is wrong with one page as it is shown now."""
    tab.open(url + path)
    if path == "/nowhere":
        tab.wrong.clear()  # the browser itself says that it is not there
    wide: int = tab.page.evaluate(OVERFLOW)
    tab.page.add_script_tag(path=str(AXE))
    found: list[str] = tab.page.evaluate(LOOK)
    return [*tab.wrong, *found, *([f"{wide} pixels too wide"] if wide else [])]


def test_the_front_page_is_sound_on_a_phone(tab: Callable[[int, str], Tab], url: str) -> None:
    assert look(tab(PHONE, "light"), url, "/") == []


def test_the_policy_lets_the_pages_own_scripts_run_and_no_other(browser: Any, url: str) -> None:
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{url}/")
    page.wait_for_selector("canvas")
    assert said == []
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')")
    page.wait_for_timeout(200)
    assert page.title() != "1"
    assert any("Content Security Policy" in text for text in said)
    context.close()


def test_numbers_move_pictures_slide_and_the_curve_turns(tab: Callable[[int, str], Tab], url: str) -> None:
    one = tab(DESKTOP, "light")
    one.open(f"{url}/")
    before = one.page.locator("[data-live=round_left]").inner_text()
    one.page.wait_for_function(
        "was => document.querySelector('[data-live=round_left]').textContent !== was", arg=before
    )
    slider = one.page.locator(".slider input")
    slider.focus()
    slider.press("Home")
    first = one.page.locator("[data-picture]").first
    assert one.page.locator(".pictures output").inner_text() == first.text_content()
    assert one.page.locator(".pictures img").get_attribute("src") == first.get_attribute("data-preview")
    one.page.get_by_label("by time").check()
    one.page.get_by_label("in bins of noise").check()
    assert one.page.locator(".u-legend .u-series").count() == 6
    assert one.wrong == []


def test_pages_say_all_without_scripts(browser: Any, url: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(f"{url}/")
    assert page.locator("table").count() == 1
    assert page.locator(".slider, .choices").filter(visible=True).count() == 0
    page.get_by_text("The curve as a table").click()
    assert page.get_by_role("cell").first.is_visible()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, PHONE, DESKTOP])
def test_every_page_is_sound(tab: Callable[[int, str], Tab], url: str, width: int, scheme: str) -> None:
    one = tab(width, scheme)
    wrong = {path: look(one, url, path) for path in PAGES}
    assert wrong == {path: [] for path in PAGES}
